"""The spans of a run as a Chrome trace: whole, bounded, and readable however the run ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.effects import Workplace, config_of
from support.models import make_model
from support.wired_run import run_once

from bolt_ray.training.completions import LONGEST_SPAN_S, BusyClock
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.timer import Span
from bolt_ray.training.telemetry.trace import TraceFile


def events(path: Path) -> list[dict[str, Any]]:
    """As a viewer reads them: an array whose closing bracket, and whose last comma, does not matter."""
    text = path.read_text(encoding="utf-8")
    assert text.startswith("[\n")
    found: list[dict[str, Any]] = json.loads(text.rstrip().removesuffix(",") + "]")
    return found


def spans(path: Path) -> list[tuple[str, int, int, int]]:
    """Name, lane, begin and length in microseconds."""
    return [(event["name"], event["tid"], event["ts"], event["dur"]) for event in events(path) if event["ph"] == "X"]


def test_spans_stand_in_their_lanes(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    trace = TraceFile(run, max_bytes=10_000)
    trace.worked("generators", Span(name="busy", started=3.0, seconds=0.5))
    trace.phase_ended(Span(name="train", started=2.0, seconds=0.25))
    # Before it is closed: a run that is killed closes nothing.
    assert spans(run.trace) == [("busy", 1, 3_000_000, 500_000), ("train", 0, 2_000_000, 250_000)]
    names = {event["tid"]: event["args"]["name"] for event in events(run.trace) if event["ph"] == "M"}
    assert names == {0: "driver", 1: "generators", 2: "scorers"}


def test_a_resumed_run_goes_on_in_the_file_that_a_killed_one_left(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    TraceFile(run, max_bytes=10_000).phase_ended(Span(name="train", started=1.0, seconds=1.0))
    with run.trace.open("a", encoding="utf-8") as file:
        file.write('{"name":"sync","ph":"X","ts":2000')
    trace = TraceFile(run, max_bytes=10_000)
    trace.phase_ended(Span(name="sync", started=5.0, seconds=1.0))
    trace.close()
    assert [name for name, *_ in spans(run.trace)] == ["train", "sync"]


def test_the_files_keep_to_their_bound_with_the_newest_spans(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    trace = TraceFile(run, max_bytes=4_000)
    for number in range(200):
        trace.phase_ended(Span(name=f"span-{number}", started=float(number), seconds=1.0))
        assert run.trace.stat().st_size <= 2_000
    trace.close()
    assert run.older_trace.stat().st_size <= 2_000
    kept = [name for path in (run.older_trace, run.trace) for name, *_ in spans(path)]
    assert kept == [f"span-{number}" for number in range(200 - len(kept), 200)]
    assert len(kept) > 20


def test_work_is_told_when_it_ends_and_in_pieces_while_it_goes_on() -> None:
    told: list[Span] = []
    now = iter([0.0, 1.0, 2.0, 3.0, 3.0 + LONGEST_SPAN_S, 4.0 + LONGEST_SPAN_S])
    clock = BusyClock(told.append, now=lambda: next(now))
    for busy in (True, False, False, True, True, False):
        clock.mark(busy)
    assert [span.seconds for span in told] == [1.0, LONGEST_SPAN_S, 1.0]
    assert clock.seconds == 2.0 + LONGEST_SPAN_S


def test_a_whole_run_is_in_its_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phases in the order of a step, inside it; the parts of a sync inside the sync."""
    make_model(tmp_path / "model", tie_embeddings=True)
    monkeypatch.chdir(tmp_path)
    done = run_once(
        config_of({"data.heldout_size": 3, "eval.every_steps": 2, "checkpoint.every_steps": 2}),
        Workplace(directory=tmp_path, model=tmp_path / "model"),
    )
    assert not done["problem"]
    found = spans(tmp_path / "run" / "trace.json")
    driver = {name: (start, start + length) for name, lane, start, length in found if lane == 0}
    assert {"evaluate", "checkpoint", *(f"step {step}" for step in (1, 2, 3, 4))} <= set(driver)
    last = [
        (start, start + length, name)
        for name, lane, start, length in found
        if lane == 0 and driver["step 4"][0] <= start and start + length <= driver["step 4"][1] and name != "step 4"
    ]
    assert [name for *_, name in sorted(last)] == [
        "wait_rollouts",
        "train",
        "sync",
        "publish",
        "update generators",
        "baseline",
        "curriculum",
    ]
    assert driver["sync"][0] <= driver["publish"][0] <= driver["update generators"][1] <= driver["sync"][1] + 1
    # The stand-in for the scorers is never busy: it has answered when it is asked.
    assert {lane for _, lane, _, _ in found} == {0, 1}
