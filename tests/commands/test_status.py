"""How a run stands, by its files alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bolt_ray.cli import app
from bolt_ray.commands.status.condition import (
    FIRST_STALL_S,
    LOST_AFTER_S,
    SHORTEST_STALL_S,
    Here,
    Standing,
    condition,
)
from bolt_ray.commands.status.reading import BLOCK, find_run, last_record, read_state
from bolt_ray.core.errors import CheckpointError
from bolt_ray.training.run_directory import RunDirectory

NOW = 1_000_000.0
HERE = Here(pid_space="here", started={7: 99}.get)
STATE: dict[str, Any] = {
    "version": 1,
    "pid": 7,
    "pid_started": 99,
    "pid_space": "here",
    "host": "node-a",
    "started": NOW - 300.0,
    "updated": NOW - 3.0,
    "step": 120,
    "max_steps": 200,
    "phase": "train",
    "phase_since": NOW - 10.0,
    "phase_typical_s": 8.0,
    "eta_s": 425.0,
    "last_eval": {"step": 100, "text": "58.3% (55.3% to 61.2%)"},
    "last_warning": "it rains\x1b[2J [hard]",
    "ended": None,
    "error": None,
    "processes": [{"role": "driver", "name": "driver", "node": "node-a", "pid": 7, "memory_bytes": 2**30}],
    "verdicts": [{"rule": "truncation", "step": 90, "text": "40% are cut", "advice": "Raise it"}],
}
STEP = {"step": 120, "reward/mean": 0.558, "completions/mean_length": 7.2}


@pytest.mark.parametrize(
    ("changed", "standing", "text"),
    [
        ({}, Standing.RUNNING, ""),
        ({"ended": "done"}, Standing.ENDED, "done"),
        ({"ended": "failed", "error": "no memory"}, Standing.ENDED, "failed: no memory"),
        ({"ended": "interrupted", "error": "SIGTERM", "updated": 0.0}, Standing.ENDED, "interrupted: SIGTERM"),
        ({"pid": 8}, Standing.ENDED, "cut off: process 8 is gone (killed, or out of memory), last heard of 0:03 ago"),
        ({"pid_started": 98}, Standing.ENDED, "cut off: process 7 is gone"),
        ({"updated": NOW - LOST_AFTER_S - 1}, Standing.STALLED, "process 7 is there and does nothing (stopped?)"),
        ({"pid_space": "there", "pid": 8}, Standing.RUNNING, ""),
        ({"pid_space": "there", "updated": NOW - 2 * LOST_AFTER_S + 1}, Standing.RUNNING, ""),
        ({"pid_space": "there", "updated": NOW - 2 * LOST_AFTER_S - 1}, Standing.ENDED, "cut off: process 7 on node-a"),
        ({"updated": NOW + 50}, Standing.RUNNING, ""),
        ({"phase": "warm start", "phase_since": 0.0, "phase_typical_s": None}, Standing.RUNNING, ""),
        ({"phase_since": NOW - SHORTEST_STALL_S}, Standing.RUNNING, ""),
        ({"phase_since": NOW - SHORTEST_STALL_S - 1}, Standing.STALLED, "train has gone on for 2:01, usually 0:08"),
        ({"phase_since": NOW - 590, "phase_typical_s": 100.0}, Standing.RUNNING, ""),
        ({"phase_since": NOW - 610, "phase_typical_s": 100.0}, Standing.STALLED, "for 10:10, usually 1:40"),
        ({"phase_since": NOW - FIRST_STALL_S, "phase_typical_s": None}, Standing.RUNNING, ""),
        ({"phase_since": NOW - FIRST_STALL_S - 1, "phase_typical_s": None}, Standing.STALLED, "train has gone on for"),
    ],
    ids=str,
)
def test_how_a_run_stands(changed: dict[str, Any], standing: Standing, text: str) -> None:
    found = condition(STATE | changed, now=NOW, here=HERE)
    assert found.standing is standing
    assert text in found.text if text else found.text == ""


def write_run(root: Path, state: dict[str, Any] | None = None, records: list[dict[str, Any]] | None = None) -> Path:
    root.mkdir(parents=True)
    if state is not None:
        (root / "state.json").write_text(json.dumps(state))
    if records is not None:
        (root / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


def status(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["status", *arguments], env={"COLUMNS": "300"})


def test_one_screen_has_all_of_it(tmp_path: Path) -> None:
    now = time.time()
    times = {name: now + STATE[name] - NOW for name in ("started", "updated", "phase_since")}
    state = STATE | times | {"pid_space": "elsewhere"}
    run = write_run(tmp_path / "run", state, [STEP, {"step": 100, "eval/pass@1": 0.5}])
    result = status(str(run))
    assert result.exit_code == 0
    for text in (
        "running",
        "120/200, 5:0",
        "so far, 7:05 left",
        "reward 0.558  length 7.2",
        "step 100: 58.3% (55.3% to 61.2%)",
        "train for 10.",
        "(usually 8.0 s)",
        "driver: process 7 on node-a, 1.0 GiB",
        "it rains [2J [hard]",
        "truncation    step 90: 40% are cut. Raise it",
    ):
        assert text in result.output, text


def test_the_exit_code_says_how_it_stands(tmp_path: Path) -> None:
    stalled = STATE | {"updated": time.time(), "pid_space": "elsewhere"}
    assert status(str(write_run(tmp_path / "stalled", stalled))).exit_code == 3
    ended = status(str(write_run(tmp_path / "ended", STATE | {"ended": "failed", "error": "no memory"})))
    assert ended.exit_code == 4
    assert "ended: failed: no memory" in ended.output and "120/200 in 4:57" in ended.output
    assert "left" not in ended.output and "phase" not in ended.output


def test_a_run_of_an_older_version_is_judged_by_its_records(tmp_path: Path) -> None:
    records = [{"step": step, "reward/mean": 0.5, "reward/unscored_fraction": 0.2} for step in range(1, 41)]
    score = {"step": 40, "eval/pass@1": 0.5, "eval/pass@1_low": 0.4, "eval/pass@1_high": 0.6}
    result = status(str(write_run(tmp_path / "run", records=[*records, score])))
    assert result.exit_code == 4
    assert "no state.json" in result.output
    assert "step 40: 50.0% (40.0% to 60.0%)" in result.output
    assert "20% of the completions get no reward" in result.output


def test_a_run_is_watched_until_it_ends(tmp_path: Path) -> None:
    result = status(str(write_run(tmp_path / "run", STATE | {"ended": "done"})), "--watch")
    assert result.exit_code == 4 and result.output.count("ended: done") == 1


def test_the_newest_run_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(CheckpointError, match=r"no run under runs or .*/home/bolt-ray-runs; name a run directory, or"):
        find_run(None)
    for place, name, at in (("runs", "b", 100), ("runs", "a", 200), ("elsewhere", "c", 300), ("runs", "d", 50)):
        run = write_run(tmp_path / place / name, STATE)
        os.utime(run / "state.json", (at, at))
    (tmp_path / "runs" / "notes.txt").write_text("no run")
    assert find_run(None).root == tmp_path / "runs" / "a"
    monkeypatch.setenv("BOLT_RAY_RUNS", str(tmp_path / "elsewhere"))
    assert find_run(None).root == tmp_path / "elsewhere" / "c"
    write_run(tmp_path / "runs" / "e", records=[STEP])
    assert find_run(None).root == tmp_path / "runs" / "e"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 2}'])
def test_what_cannot_be_read_is_said(tmp_path: Path, text: str) -> None:
    run = write_run(tmp_path / "run", STATE)
    (run / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json: not a state this version"):
        read_state(RunDirectory(run))
    with pytest.raises(CheckpointError, match="no run directory"):
        find_run(tmp_path)


def test_the_newest_record_is_read_from_the_end(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert last_record(file, kind="reward/") is None
    file.write_text("")
    assert last_record(file, kind="reward/") is None
    score = {"step": 1, "eval/pass@1": 0.5, "note": "x" * (2 * BLOCK)}
    steps = [{"step": step, "reward/mean": 0.5, "note": "ü" * (step % 7 * 999)} for step in range(1, 60)]
    file.write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in [score, *steps]) + '{"step": 60, "rew'
    )
    assert last_record(file, kind="reward/") == steps[-1]
    assert last_record(file, kind="eval/") == score
    assert last_record(file, kind="nothing/") is None
    # A file that is read from its begin on would not be readable here.
    whole = file.read_bytes()
    file.write_bytes(b"\xff" * 4096 + b"\n" + whole)
    assert last_record(file, kind="reward/") == steps[-1]


def test_a_run_that_is_killed_is_seen_to_be(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from bolt_ray.training.telemetry.state import StateWriter\n"
        "with StateWriter(Path(sys.argv[1]), max_steps=9) as state:\n"
        "    state.stage('start'); time.sleep(600)\n"
    )
    run = write_run(tmp_path / "run")
    process = subprocess.Popen([sys.executable, "-c", code, str(run / "state.json")])
    try:
        deadline = time.monotonic() + 120
        while not (run / "state.json").exists():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        alive = status(str(run))
        assert alive.exit_code == 0 and "running" in alive.output and "0/9" in alive.output
        process.send_signal(signal.SIGKILL)
        process.wait()
        dead = status(str(run))
        assert dead.exit_code == 4
        assert f"ended: cut off: process {process.pid} is gone" in dead.output
    finally:
        process.kill()
        process.wait()
