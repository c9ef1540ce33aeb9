"""Runs a producer of items in a thread; every wait for one has a deadline."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import pyarrow as pa
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.exceptions import RayError

from bolt_ray.core.errors import BoltRayError, RunError, StallError
from bolt_ray.core.waits import since

T = TypeVar("T")
POLL_S = 0.25
CLOSE_S = 5.0

PRODUCER_ERRORS = (
    BoltRayError,
    RayError,
    SystemException,
    ExecutionTimeoutError,
    pa.ArrowException,
    OSError,
    RuntimeError,
    ValueError,
)
"""Errors carried to the consumer. Any other ends the thread with its traceback, and the consumer notices."""


class _End:
    """No more items will come."""


class Feed(Generic[T]):
    """Runs an iterable in a thread of its own and hands out its items, each within a deadline.

    Args:
        make_items: called in the thread; its items are handed out in order.
        what: what is being waited for, for messages.
        max_waiting: items made ahead of the consumer; 0 for any number.
    """

    def __init__(self, make_items: Callable[[], Iterable[T]], *, what: str, max_waiting: int = 0) -> None:
        self._make_items = make_items
        self._what = what
        self._queue: queue.Queue[T | _End | BaseException] = queue.Queue(max_waiting)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"feed: {what}", daemon=True)
        self._thread.start()

    def get(self, timeout_s: float) -> T | None:
        """The next item, or None at the end.

        Raises:
            StallError: nothing came within ``timeout_s``.
            BoltRayError: what the producing thread raised on purpose.
            RunError: the producing side failed otherwise.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                item = self._queue.get(timeout=min(POLL_S, max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                # The queue is looked at again after the thread is seen dead: it may have put a last item.
                if not self._thread.is_alive() and self._queue.empty():
                    raise RunError(f"the thread reading {self._what} ended without a result") from None
                if time.monotonic() >= deadline:
                    raise StallError(
                        f"the driver has waited for {self._what} {since(timeout_s)}, and Ray Data gave nothing. Are "
                        "CPUs left for its tasks ('ray status'), and can every node see the prompt store?"
                    ) from None
                continue
            if isinstance(item, _End):
                return None
            if isinstance(item, BaseException):
                raise _own_error(item, self._what)
            return item

    def close(self) -> None:
        """Stop producing; items not handed out are lost. Waits a little for the thread to let go of Ray."""
        self._closed.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            for item in self._make_items():
                if not self._put(item):
                    return
        except (
            BoltRayError,
            RayError,
            SystemException,
            pa.ArrowException,
            OSError,
            RuntimeError,
            ValueError,
        ) as error:
            self._put(error)
        else:
            self._put(_End())

    def _put(self, item: T | _End | BaseException) -> bool:
        while not self._closed.is_set():
            try:
                self._queue.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False


def _own_error(error: BaseException, what: str) -> BoltRayError:
    """The project's error as it is; any other as a RunError that quotes it."""
    if isinstance(error, BoltRayError):
        return error
    # Of a failed task only the traceback's text arrives; its first block ends in the original error.
    first, _, _ = str(error).strip().partition("\n\nThe above exception was")
    lines = first.splitlines() or [type(error).__name__]
    failure = RunError(f"reading {what} failed: {lines[-1].strip()}")
    failure.__cause__ = error
    return failure
