"""How often something may go wrong before a run gives up: so many times within a window of time, not in all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class Budget:
    """At most ``limit`` failures within any ``window_s`` seconds.

    A run of weeks on machines that come and go loses many processes, one at a time; a broken one loses them in a row.
    """

    def __init__(self, limit: int, *, window_s: float, now: Callable[[], float] = time.monotonic) -> None:
        """``now``: gives the time in seconds; only differences count."""
        self.limit = limit
        self.window_s = window_s
        self._now = now
        self._spent: deque[float] = deque()

    @property
    def spent(self) -> int:
        """Failures within the window that ends now."""
        while self._spent and self._now() - self._spent[0] > self.window_s:
            self._spent.popleft()
        return len(self._spent)

    def spend(self) -> bool:
        """Count one failure; False if it was one too many."""
        self._spent.append(self._now())
        return self.spent <= self.limit
