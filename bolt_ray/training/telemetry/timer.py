"""Where the driver's time goes: named phases, told to whoever wants to know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that was done.

    Attributes:
        name: of the phase: ``wait_rollouts``, ``train``, ``sync``, ``baseline``, ``curriculum``, ``evaluate``,
            ``checkpoint``; of a part of one: ``publish``, ``update generators``; ``busy``.
        started: wall-clock time of its begin, in seconds since 1970.
        seconds: how long it took.
    """

    name: str
    started: float
    seconds: float


class StepTimer:
    """Seconds spent in each named phase of a step.

    Args:
        clock: gives the time in seconds; only differences count.
        began: called with the name of a phase that begins.
        ended: called with the span of a phase that ended, by an error too.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        *,
        began: Callable[[str], None] = lambda name: None,
        ended: Callable[[Span], None] = lambda span: None,
    ) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._began = began
        self._ended = ended

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._began(name)
        at, start = time.time(), self._clock()
        try:
            yield
        finally:
            seconds = self._clock() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self._ended(Span(name=name, started=at, seconds=seconds))
