"""How fast a generator is for each of its requests, to find one that is slow where others have nothing to do."""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_S = 20.0
"""Shorter than this says little: a long prompt is a while without a token."""
SLOW = 4.0
"""A generator so many times slower than another with as many requests is slow."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens per second of each of ``requests``, a mean over a window of time."""

    requests: float
    tokens: float


class Pace:
    """What a generator's numbers say of its speed, window by window.

    Attributes:
        last: of the last window, if it worked all through it.
        full: of the last window in which it had about as much to do as ever.
    """

    def __init__(self) -> None:
        self.last: Speed | None = None
        self.full: Speed | None = None
        self._began = 0.0
        self._tokens = 0
        self._requests = 0

    def see(self, now: float, *, tokens: int, requests: int) -> None:
        """``tokens`` generated in all so far, ``requests`` in flight now."""
        if requests == 0 or self._requests == 0:
            self.last = None
        elif now - self._began < WINDOW_S:
            return
        else:
            mean = (self._requests + requests) / 2
            self.last = Speed(mean, (tokens - self._tokens) / (now - self._began) / mean)
            if self.full is None or mean >= self.full.requests / 2:
                self.full = self.last
        self._began, self._tokens, self._requests = now, tokens, requests

    def slower_than(self, other: Pace) -> bool:
        """Whether this one is slow beside another, which had at least as much to do when it was measured."""
        if self.last is None or other.full is None or other.full.requests < self.last.requests:
            return False
        return self.last.tokens < other.full.tokens / SLOW
