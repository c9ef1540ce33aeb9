"""How a wait is told."""

from __future__ import annotations

import time
from collections.abc import Callable


def since(waited_s: float, *, now: Callable[[], float] = time.time) -> str:
    """As in "since 10:42:13 (600 s)", in this machine's time; ``now`` gives seconds since 1970."""
    return f"since {time.strftime('%H:%M:%S', time.localtime(now() - waited_s))} ({waited_s:.0f} s)"
