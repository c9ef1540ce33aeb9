"""Ctrl-C and SIGTERM: a first signal ends a run after its step with a checkpoint, a second one at once.

Before there is anything to save, the first one ends it at once too.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """The user or the cluster asked the run to stop; the message is the signal's name.

    As ``KeyboardInterrupt`` it may come anywhere, where nobody who handles errors should take it for one.
    """


class InterruptFlag:
    """Set by the first signal; the run ends at the next call of ``check``. A second signal ends it at once.

    Attributes:
        at_once: the first one raises where it finds the program, which may wait where nobody calls ``check``.
    """

    def __init__(self, *, at_once: bool = False, also: Callable[[], None] = lambda: None) -> None:
        """``also``: raises what else ends the run; called by ``check``."""
        self.at_once = at_once
        self._also = also
        self._signal: int | None = None

    @property
    def is_set(self) -> bool:
        return self._signal is not None

    def check(self) -> None:
        """Raise ``Interrupted`` if a signal has come, else what ends the run beside signals."""
        if self._signal is not None:
            raise Interrupted(signal.Signals(self._signal).name)
        self._also()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signal is not None:
            raise KeyboardInterrupt
        self._signal = number
        if self.at_once:
            self.check()


@contextmanager
def catch_interrupts(flag: InterruptFlag | None = None) -> Iterator[InterruptFlag]:
    """Handlers for SIGINT and SIGTERM. Enter it, or enter it again, after ``ray.init``, which sets its own.

    In another thread than the main one, where Python allows no handlers, signals keep their usual effect.

    Args:
        flag: what they set; default: a new one.
    """
    flag = flag or InterruptFlag()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, flag._handle)
    try:
        yield flag
    except SystemError:
        flag.check()  # a handler that raises within Ray's compiled code ends in this
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
