"""Notices that completions neither come nor get on."""

from __future__ import annotations

import time

from bolt_ray.actors.stacks import waits_for
from bolt_ray.core.errors import StallError
from bolt_ray.training.completions import CompletionService


class StallWatch:
    """Watches one wait, from when it is made.

    Every token, every score and every arrival counts: an answer of an hour is no stall while it grows.
    """

    def __init__(self, service: CompletionService, *, stall_s: float) -> None:
        """``stall_s``: longest time without any progress."""
        self._service = service
        self._stall_s = stall_s
        self._moved_at = time.monotonic()
        self._seen: object = None

    def look(self, *, arrived: int, what: str) -> None:
        """To be called after each arrival or pause.

        Args:
            arrived: completions that came so far.
            what: is waited for.

        Raises:
            StallError: nothing moved for too long; what the processes that owe something do is in the log.
        """
        seen = (arrived, self._service.progress)
        now = time.monotonic()
        if seen != self._seen:
            self._moved_at, self._seen = now, seen
        elif now - self._moved_at > self._stall_s:
            service = self._service
            told = waits_for(what, waited_s=now - self._moved_at, processes=service.waited_for)
            raise StallError(
                f"{told}: no token and no score since, while {service.generating:,} are being generated and "
                f"{service.scoring:,} scored (deadlines.generation_s sets this limit)"
            )
