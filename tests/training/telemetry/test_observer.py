"""Observers see everything in order, and none of them can stop a run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.console import ProgressDisplay
from bolt_ray.training.telemetry.observer import Observer
from bolt_ray.training.telemetry.record import MetricsLog
from bolt_ray.training.telemetry.telemetry import Telemetry
from bolt_ray.training.telemetry.timer import Span


class Witness(Observer):
    """Writes down what it is told; raises at its ``fails_at``-th record."""

    def __init__(self, *, fails_at: int = 0) -> None:
        self.seen: list[Any] = []
        self._fails_at = fails_at
        self._records = 0

    def phase_began(self, name: str) -> None:
        self.seen.append(("began", name))

    def phase_ended(self, span: Span) -> None:
        self.seen.append(("ended", span.name))

    def recorded(self, record: Any) -> None:
        self._records += 1
        if self._records == self._fails_at:
            raise OSError("no route to host")
        self.seen.append(record)

    def said(self, text: str) -> None:
        self.seen.append(text)

    def close(self) -> None:
        self.seen.append("closed")


def telemetry(directory: Path, *observers: Observer) -> tuple[Telemetry, io.StringIO]:
    printed = io.StringIO()
    display = ProgressDisplay(total_steps=3, first_step=0, console=Console(file=printed, width=1000))
    return Telemetry(metrics=MetricsLog(RunDirectory(directory)), display=display, observers=observers), printed


def test_an_observer_is_told_everything_in_order(tmp_path: Path) -> None:
    witness = Witness()
    run, _ = telemetry(tmp_path, witness)
    with run.phase("evaluate"):
        run.say("hello")
    with pytest.raises(KeyError), run.phase("train"):
        raise KeyError
    run.record({"step": 1})
    run.close()
    assert witness.seen == [
        ("began", "evaluate"),
        "hello",
        ("ended", "evaluate"),
        ("began", "train"),
        ("ended", "train"),
        {"step": 1},
        "closed",
    ]


def test_an_observer_that_fails_at_what_another_one_says_is_left_out_too(tmp_path: Path) -> None:
    class Speaker(Observer):
        def recorded(self, record: Any) -> None:
            run.say("hello")

    class Deaf(Observer):
        def said(self, text: str) -> None:
            raise OSError("no ears")

        def recorded(self, record: Any) -> None:
            raise OSError("it is gone already")

    run, printed = telemetry(tmp_path, Speaker(), Deaf())
    run.record({"step": 1})
    assert printed.getvalue().count("Deaf failed") == 1


def test_an_observer_that_fails_is_left_out_after_one_warning(tmp_path: Path) -> None:
    bad, good = Witness(fails_at=2), Witness()
    run, printed = telemetry(tmp_path, bad, good)
    for step in (1, 2, 3):
        run.record({"step": step})
    run.close()
    assert bad.seen == [{"step": 1}]
    assert good.seen == [{"step": 1}, {"step": 2}, {"step": 3}, "closed"]
    assert printed.getvalue().count("Witness failed") == 1
    assert "no route to host" in printed.getvalue()
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == good.seen[:3]
