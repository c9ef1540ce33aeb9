"""``state.json``: what a run is doing now, for whoever sees its directory.

    {"version": 1, "pid", "pid_started", "pid_space", "host", "started", "updated", "step", "max_steps", "phase",
     "phase_since", "phase_typical_s", "eta_s", "last_eval", "last_warning", "ended", "error", "processes", "verdicts"}

Times are seconds since 1970. A thread writes it whole every few seconds, so a file that grows old without having
``ended`` is of a run that was killed, or of a machine that is gone.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Literal

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.core.errors import BoltRayError
from bolt_ray.core.secrets import masked_text
from bolt_ray.training.interrupts import Interrupted
from bolt_ray.training.telemetry.console import eval_numbers
from bolt_ray.training.telemetry.health import Verdict
from bolt_ray.training.telemetry.observer import Observer
from bolt_ray.training.telemetry.pace import Pace
from bolt_ray.training.telemetry.timer import Span

log = logging.getLogger(__name__)

VERSION = 1
HEARTBEAT_S = 5.0
SOONEST_S = 0.5
"""Between two writes, however often phases change."""
SPANS_KEPT = 50

Ended = Literal["done", "interrupted", "failed"]


class StateWriter(Observer):
    """Keeps a run's ``state.json``; a context that lasts as long as the run, its start and its end included.

    A write that fails or hangs is its thread's alone.

    Attributes:
        ended: how the run ended, where it did so without an exception.
        processes: tells of the run's processes; it is asked from the thread, and must not wait.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_steps: int,
        first_step: int = 0,
        stage: str = "prepare",
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        """``stage``: what goes on while no phase does; ``first_step``: finished steps that the run goes on from."""
        now = time.time()
        self.ended: Ended = "done"
        self.processes: Callable[[], Sequence[ProcessInfo]] = list
        self._path = path
        self._heartbeat_s = heartbeat_s
        self._stage = ("prepare", now)
        self._open: list[tuple[str, float]] = []
        self._took: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=SPANS_KEPT))
        self._pace = Pace()
        self._max_steps = max_steps
        self._state: dict[str, Any] = {
            "version": VERSION,
            **this_process(),
            "host": socket.gethostname(),
            "started": now,
            "step": first_step,
            "max_steps": max_steps,
            "eta_s": None,
            "last_eval": None,
            "last_warning": None,
            "ended": None,
            "error": None,
            "verdicts": [],
        }
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._write_on, name="state.json", daemon=True)

    def __enter__(self) -> StateWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        ended = self.ended
        if error is not None:
            ended = "interrupted" if isinstance(error, Interrupted | KeyboardInterrupt) else "failed"
        known = isinstance(error, BoltRayError | Interrupted)
        text = None if error is None else str(error) if known else f"{type(error).__name__}: {error}"
        self._set(ended=ended, error=None if text is None else masked_text(text, environ=os.environ), eta_s=None)
        self._closing.set()
        self._changed.set()
        self._thread.join(timeout=self._heartbeat_s)  # not for longer: the directory's file system may hang

    def stage(self, name: str) -> None:
        """What goes on from here while no phase does."""
        with self._lock:
            self._stage = (name, time.time())
        self._changed.set()

    def phase_began(self, name: str) -> None:
        with self._lock:
            self._open.append((name, time.time()))
        self._changed.set()

    def phase_ended(self, span: Span) -> None:
        with self._lock:
            while self._open and self._open.pop()[0] != span.name:
                pass
            self._took[span.name].append(span.seconds)
            self._stage = (self._stage[0], time.time())
        self._changed.set()

    def recorded(self, record: Mapping[str, Any]) -> None:
        self.evaluated(record)
        if "reward/mean" in record:
            self._pace.step(int(record["step"]), time.time())
            self._set(step=int(record["step"]), eta_s=self._pace.seconds_left(self._max_steps))

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Take in the score of an evaluation's record; of a resumed run also those before."""
        numbers = eval_numbers(record)
        if numbers is not None:
            self._set(last_eval={"step": record["step"], "text": numbers})

    def judged(self, verdict: Verdict) -> None:
        with self._lock:
            self._state["verdicts"] = [*self._state["verdicts"], asdict(verdict)]

    def said(self, text: str) -> None:
        if text.startswith("Warning: "):
            self._set(last_warning=masked_text(text.removeprefix("Warning: "), environ=os.environ))

    def snapshot(self) -> dict[str, Any]:
        """The state now, as it is written."""
        now = time.time()
        processes = [
            {
                "role": process.role,
                "name": process.name,
                "node": process.node,
                "pid": process.pid,
                "memory_bytes": process.host_bytes,
            }
            for process in self.processes()
        ]
        with self._lock:
            name, since = self._open[-1] if self._open else self._stage
            took = self._took[name]
            return self._state | {
                "updated": now,
                "phase": name,
                "phase_since": since,
                "phase_typical_s": median(took) if took else None,
                "processes": processes,
            }

    def _set(self, **values: Any) -> None:
        with self._lock:
            self._state |= values

    def _write_on(self) -> None:
        """The thread: writes at once, at changes, as a heartbeat, and a last time when the run ends."""
        failed = False
        while True:
            closing = self._closing.is_set()
            try:
                self._write()
            except Exception:  # whatever it is, the heartbeat goes on
                if not failed:
                    log.warning("%s: cannot be written now; 'bolt-ray status' knows nothing", self._path, exc_info=True)
                failed = True
            if closing:
                return
            self._closing.wait(SOONEST_S)
            self._changed.wait(self._heartbeat_s)
            self._changed.clear()

    def _write(self) -> None:
        aside = self._path.with_name(f".{self._path.name}.part")
        try:
            aside.write_text(json.dumps(self.snapshot()), encoding="utf-8")
            aside.replace(self._path)
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)


def this_process() -> dict[str, Any]:
    """What tells this process from every other: ``pid``, when it was started, and where that number counts."""
    pid = os.getpid()
    return {"pid": pid, "pid_started": started_ticks(pid), "pid_space": pid_space()}


def pid_space() -> str:
    """This boot of this machine, and this container's own numbering of processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # a sandbox that hides them
        return socket.gethostname()


def started_ticks(pid: int) -> int | None:
    """When a process was started, in clock ticks since boot (proc(5), field 22 of stat); None if there is none.

    One that ended and was not waited for is none either.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
