"""How fast a run goes, and what is left of it."""

from __future__ import annotations

from collections import deque

STEPS_TIMED = 50


class Pace:
    """Time per step over the last ones, with everything between them: evaluations, checkpoints, waits."""

    def __init__(self) -> None:
        self._times: deque[tuple[int, float]] = deque(maxlen=STEPS_TIMED)

    def step(self, step: int, now: float) -> None:
        """``step`` is done at ``now``, in seconds of any clock; one that is done again starts the count anew."""
        if self._times and step <= self._times[-1][0]:
            self._times.clear()
        self._times.append((step, now))

    def seconds_left(self, total: int) -> float | None:
        """Until step ``total``, counted from the last one; None before there are two steps."""
        if len(self._times) < 2:
            return None
        (first, began), (last, ended) = self._times[0], self._times[-1]
        return (total - last) * (ended - began) / (last - first)


def duration(seconds: float) -> str:
    """``7:05``, or ``3:07:05`` from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
