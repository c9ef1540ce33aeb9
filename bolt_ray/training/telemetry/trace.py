"""What took how long in a run, as a Chrome trace for https://ui.perfetto.dev or chrome://tracing.

    driver      ├─ step 12: wait_rollouts ─┼─ train ─┼─ sync: publish, update generators ─┤├─ evaluate ─┤
    generators  ├────────── busy ──────────┤
    scorers            ├─ busy ─┤ ├─ busy ─┤

``trace.json`` is an array with an event on each line. Its closing bracket is never written, which the format leaves to
the writer: lines are only appended, and what a killed run leaves behind opens all the same.
"""

from __future__ import annotations

import json
import time
from typing import Any

from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.observer import Observer, TrainedStep
from bolt_ray.training.telemetry.timer import Span

LANES = ("driver", "generators", "scorers")


class TraceFile(Observer):
    """Appends to ``trace.json``; a file of half the bytes becomes ``trace-older.json``, whose former content goes.

    Args:
        max_bytes: of both files.
    """

    def __init__(self, run: RunDirectory, *, max_bytes: int) -> None:
        self._path, self._older = run.trace, run.older_trace
        self._max_bytes = max_bytes // 2
        self._step_began: float | None = None
        if self._path.exists():
            _leave_out_torn_line(self._path)
        self._open()

    def phase_ended(self, span: Span) -> None:
        if span.name == "wait_rollouts":
            self._step_began = span.started
        self.worked("driver", span)

    def worked(self, who: str, span: Span) -> None:
        self._write(_event(span.name, who, started=span.started, seconds=span.seconds))

    def trained(self, step: TrainedStep) -> None:
        if self._step_began is not None:
            seconds = time.time() - self._step_began
            self._write(_event(f"step {step.step}", "driver", started=self._step_began, seconds=seconds))

    def close(self) -> None:
        self._file.close()

    def _open(self) -> None:
        # Line by line: what is written is whole, and a run that is killed loses nothing.
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._size = self._file.tell()
        if not self._size:
            self._size += self._file.write("[\n" + "".join(_line(_name(lane)) for lane in LANES))

    def _write(self, event: dict[str, Any]) -> None:
        line = _line(event)
        if self._size + len(line) > self._max_bytes:
            self._file.close()
            self._path.replace(self._older)
            self._open()
        self._size += self._file.write(line)


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":")) + ",\n"


def _event(name: str, lane: str, *, started: float, seconds: float) -> dict[str, Any]:
    """A complete event; times in microseconds."""
    return {
        "name": name,
        "ph": "X",
        "ts": round(1e6 * started),
        "dur": round(1e6 * seconds),
        "pid": 1,
        "tid": LANES.index(lane),
    }


def _name(lane: str) -> dict[str, Any]:
    return {"name": "thread_name", "ph": "M", "pid": 1, "tid": LANES.index(lane), "args": {"name": lane}}


def _leave_out_torn_line(path: Any) -> None:
    """A run that was killed may have left half a line at the end."""
    with path.open("rb+") as file:
        file.truncate(file.read().rfind(b"\n") + 1)
