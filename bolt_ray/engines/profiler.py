"""What the operators of one process take, time or memory, recorded by PyTorch's own profiler."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Tool = Literal["torch", "memory"]

OPERATORS_SHOWN = 40
SNAPSHOT_EVENTS = 100_000
"""Newest allocations and releases that a snapshot of a GPU's memory has."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileTarget:
    """What is recorded, and where it is written.

    Attributes:
        directory: that all processes write to.
        name: files begin with it, e.g. ``step-000005``.
        tool: ``torch`` for times, ``memory`` for allocations too.
    """

    directory: str
    name: str
    tool: Tool

    def file(self, who: str, suffix: str) -> Path:
        """``<directory>/<name>-<who><suffix>``."""
        return Path(self.directory) / f"{self.name}-{who}{suffix}"

    def failed(self, who: str, error: Exception) -> None:
        """Leave the reason in ``…-failed.txt``, where the driver and the user find it."""
        log.warning("nothing recorded of %s %s", who, self.name, exc_info=error)
        try:
            Path(self.directory).mkdir(parents=True, exist_ok=True)
            text = f"nothing recorded of {who}: {type(error).__name__}: {error}\n"
            self.file(who, "-failed.txt").write_text(text, encoding="utf-8")
        except OSError:
            log.warning("the reason could not be written either", exc_info=True)


class Recording:
    """A recording under way, of the thread that started it; to be stopped by the same. Never raises.

    Written are ``….json.gz``, a Chrome trace of every operator, ``….txt``, a table of those that take most, and of
    memory on a GPU ``….pickle``, a snapshot for https://docs.pytorch.org/memory_viz.
    """

    def __init__(self, target: ProfileTarget, who: str, profiler: Any) -> None:
        self._target, self._who, self._profiler = target, who, profiler

    @classmethod
    def start(cls, target: ProfileTarget, *, who: str) -> Recording | None:
        """Start one of ``who``; None if that fails."""
        import torch
        from torch.profiler import profile, supported_activities

        try:
            if torch.autograd._profiler_enabled():  # type: ignore[attr-defined]  # PyTorch has no types for it
                # PyTorch lets two run in one thread, and ends the process when the first is to be written.
                raise RuntimeError("another profiler of PyTorch runs here")
            Path(target.directory).mkdir(parents=True, exist_ok=True)
            if _takes_snapshot(target):
                torch.cuda.memory._record_memory_history(max_entries=SNAPSHOT_EVENTS)
            profiler = profile(activities=supported_activities(), profile_memory=target.tool == "memory")  # type: ignore[no-untyped-call]  # PyTorch has no types for it
            profiler.start()
        except Exception as error:  # noqa: BLE001 - a recording never ends a run
            target.failed(who, error)
            return None
        return cls(target, who, profiler)

    def stop(self) -> None:
        """End it and write its files."""
        import torch

        try:
            self._profiler.stop()
            table = self._profiler.key_averages().table(sort_by=self._most(), row_limit=OPERATORS_SHOWN)
            self._target.file(self._who, ".txt").write_text(table, encoding="utf-8")
            self._profiler.export_chrome_trace(str(self._target.file(self._who, ".json.gz")))
            if _takes_snapshot(self._target):
                torch.cuda.memory._dump_snapshot(str(self._target.file(self._who, ".pickle")))  # type: ignore[no-untyped-call]  # PyTorch has no types for it
                torch.cuda.memory._record_memory_history(enabled=None)
        except Exception as error:  # noqa: BLE001 - a recording never ends a run
            self._target.failed(self._who, error)

    def _most(self) -> str:
        device = "device" if _on_gpu() else "cpu"
        return f"self_{device}_memory_usage" if self._target.tool == "memory" else f"self_{device}_time_total"


def start_in_worker(worker: Any, target: ProfileTarget, who: str) -> None:
    """Run in a vLLM worker, where its operators are: start a recording."""
    worker.recording = Recording.start(target, who=f"{who}-rank-{worker.rank}" if worker.rank else who)


def stop_in_worker(worker: Any) -> None:
    """Run in a vLLM worker: end the recording that `start_in_worker` started."""
    if worker.recording is not None:
        worker.recording.stop()


def _takes_snapshot(target: ProfileTarget) -> bool:
    return target.tool == "memory" and _on_gpu()


def _on_gpu() -> bool:
    """Whether this process computes on one; without one of its own it may still see the machine's."""
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]  # PyTorch has no types for it
