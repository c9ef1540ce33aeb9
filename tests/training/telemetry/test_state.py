"""``state.json`` says what a run does, from its first moment to its end."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.core.errors import ConfigError
from bolt_ray.training.interrupts import Interrupted
from bolt_ray.training.telemetry.health import Verdict
from bolt_ray.training.telemetry.state import StateWriter, pid_space, started_ticks
from bolt_ray.training.telemetry.timer import Span

VERDICT = Verdict(rule="truncation", step=12, text="40% are cut", advice="Raise it")

DRIVER = ProcessInfo(role="driver", name="driver", node="a", pid=3, host_bytes=5, gpu_bytes=None, node_fraction=0.1)


def writer(directory: Path, **given: Any) -> StateWriter:
    return StateWriter(directory / "state.json", max_steps=100, **given)


def read(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "state.json").read_text())
    return found


def wait_for(directory: Path, name: str, value: Any) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (directory / "state.json").exists() and read(directory)[name] == value:
            return read(directory)
        time.sleep(0.02)
    raise AssertionError(f"{name} is never {value!r}")


def test_it_is_there_from_the_start_and_says_who_writes_it(tmp_path: Path) -> None:
    before = time.time()
    with writer(tmp_path, first_step=7):
        state = wait_for(tmp_path, "phase", "prepare")
    assert (state["version"], state["step"], state["max_steps"], state["ended"]) == (1, 7, 100, None)
    assert (state["pid"], state["pid_started"]) == (os.getpid(), started_ticks(os.getpid()))
    assert state["pid_space"] == pid_space()
    assert before <= state["started"] <= state["phase_since"] <= state["updated"] <= time.time()


def test_a_change_is_written_long_before_the_next_heartbeat(tmp_path: Path) -> None:
    with writer(tmp_path, heartbeat_s=3600.0) as state:
        state.phase_began("train")
        wait_for(tmp_path, "phase", "train")
        state.stage("stop")
        state.phase_ended(Span(name="train", started=0.0, seconds=1.0))
        wait_for(tmp_path, "phase", "stop")
    assert read(tmp_path)["ended"] == "done"


def test_a_heartbeat_is_written_without_any_change(tmp_path: Path) -> None:
    with writer(tmp_path, heartbeat_s=0.01):
        first = wait_for(tmp_path, "phase", "prepare")["updated"]
        deadline = time.monotonic() + 60
        while read(tmp_path)["updated"] == first:
            assert time.monotonic() < deadline


def test_it_says_what_the_run_has_been_told(tmp_path: Path) -> None:
    state = writer(tmp_path)
    state.stage("step")
    for seconds in (2.0, 3.0, 40.0):
        state.phase_began("train")
        state.phase_ended(Span(name="train", started=0.0, seconds=seconds))
    state.phase_began("evaluate")
    state.phase_began("train")
    state.recorded({"step": 10, "eval/pass@1": 0.5, "eval/pass@1_low": 0.4, "eval/pass@1_high": 0.61})
    state.recorded({"step": 10, "reward/mean": 0.5})
    state.said("hello")
    state.said("Warning: it rains")
    state.judged(VERDICT)
    state.processes = lambda: [DRIVER]
    found = state.snapshot()
    assert (found["phase"], found["phase_typical_s"], found["step"]) == ("train", 3.0, 10)
    assert found["last_eval"] == {"step": 10, "text": "50.0% (40.0% to 61.0%)"}
    assert found["last_warning"] == "it rains"
    assert [verdict["rule"] for verdict in found["verdicts"]] == ["truncation"]
    assert found["processes"] == [{"role": "driver", "name": "driver", "node": "a", "pid": 3, "memory_bytes": 5}]
    assert found["eta_s"] is None
    state.recorded({"step": 11, "reward/mean": 0.5})
    assert 0 <= state.snapshot()["eta_s"] < 89 * 60
    state.phase_ended(Span(name="train", started=0.0, seconds=1.0))
    assert (state.snapshot()["phase"], state.snapshot()["phase_typical_s"]) == ("evaluate", None)
    state.phase_ended(Span(name="evaluate", started=0.0, seconds=1.0))
    assert state.snapshot()["phase"] == "step"


@pytest.mark.parametrize(
    ("raised", "ended", "text"),
    [
        (ConfigError("no such file"), "failed", "no such file"),
        (ZeroDivisionError("by zero"), "failed", "ZeroDivisionError: by zero"),
        (Interrupted("SIGTERM"), "interrupted", "SIGTERM"),
        (KeyboardInterrupt(), "interrupted", "KeyboardInterrupt: "),
    ],
    ids=repr,
)
def test_how_it_ended_is_the_last_word(tmp_path: Path, raised: BaseException, ended: str, text: str) -> None:
    with pytest.raises(type(raised)), writer(tmp_path):
        raise raised
    assert (read(tmp_path)["ended"], read(tmp_path)["error"]) == (ended, text)
    with writer(tmp_path) as state:
        state.ended = "interrupted"
    assert (read(tmp_path)["ended"], read(tmp_path)["error"]) == ("interrupted", None)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_a_directory_that_cannot_be_written_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with writer(tmp_path / "gone", heartbeat_s=0.01) as state:
        state.phase_began("train")
        (tmp_path / "gone").mkdir()  # and it comes back
        wait_for(tmp_path / "gone", "phase", "train")
        (tmp_path / "gone" / "state.json").unlink()
        (tmp_path / "gone" / "state.json").mkdir()
    assert len([record for record in caplog.records if "cannot be written" in record.message]) <= 1


def test_what_fails_in_the_thread_does_not_end_it(tmp_path: Path) -> None:
    answers = iter([ZeroDivisionError, ZeroDivisionError])

    def processes() -> list[ProcessInfo]:
        for error in answers:
            raise error
        return [DRIVER]

    state = writer(tmp_path, heartbeat_s=0.01)
    state.processes = processes
    with state:
        wait_for(tmp_path, "phase", "prepare")
    assert read(tmp_path)["processes"][0]["pid"] == 3


def test_a_write_that_hangs_delays_the_end_by_a_heartbeat_at_most(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".state.json.part")  # to open it for writing waits for a reader
    state = writer(tmp_path, heartbeat_s=0.05)
    with state:
        state.phase_began("train")
        state.recorded({"step": 1, "reward/mean": 0.5})
    assert any(thread.name == "state.json" and thread.daemon for thread in threading.enumerate())
    descriptor = os.open(tmp_path / ".state.json.part", os.O_RDONLY | os.O_NONBLOCK)
    os.close(descriptor)


def test_a_process_that_ended_has_no_start() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    deadline = time.monotonic() + 60
    while started_ticks(child) is not None:  # a zombie as soon as it has ended
        assert time.monotonic() < deadline
    os.waitpid(child, 0)
    assert started_ticks(child) is None


def test_no_secret_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_API_KEY", "swordfish-of-the-judge")
    with pytest.raises(ConfigError), writer(tmp_path) as state:
        state.said("Warning: https://me:hunter2@judge.example/ did not answer")
        raise ConfigError("swordfish-of-the-judge is refused")
    assert read(tmp_path)["last_warning"] == "https://***@judge.example/ did not answer"
    assert read(tmp_path)["error"] == "*** is refused"
