"""Uploading finished checkpoints in the background, while training goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bolt_ray.core.errors import StorageError
from bolt_ray.training.checkpoint_storage import CheckpointStorage

LAST_UPLOAD_S = 3600.0
"""Longest wait for the last upload, when training has ended."""

log = logging.getLogger(__name__)


class CheckpointUploads:
    """One upload at a time in a thread of its own; of those that wait only the newest is kept.

    Older checkpoints leave the storage when a newer one is whole there. A context: at its end, the last upload is
    waited for.
    """

    def __init__(
        self, storage: CheckpointStorage, *, keep: int, say: Callable[[str], None], timeout_s: float = LAST_UPLOAD_S
    ) -> None:
        """
        Args:
            keep: newest checkpoints kept in the storage.
            say: says a line to the user; called from the thread.
            timeout_s: longest wait for the last upload.
        """
        self.storage = storage
        self._keep = keep
        self._say = say
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._waiting: Path | None = None
        self._running: Path | None = None
        self._failed: str | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._upload_on, name="checkpoint-uploads", daemon=True)
        self._thread.start()

    def __enter__(self) -> CheckpointUploads:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(quietly=error is not None)

    @property
    def held(self) -> set[str]:
        """Names of checkpoints that must stay in the run directory for now."""
        with self._changed:
            return {path.name for path in (self._waiting, self._running) if path is not None}

    def add(self, checkpoint: Path) -> None:
        """Upload a finished checkpoint when the one before is done."""
        with self._changed:
            passed_over, self._waiting = self._waiting, checkpoint
            self._changed.notify_all()
        if passed_over is not None:
            self._say(f"Warning: {passed_over.name} is not uploaded, {checkpoint.name} came before its turn")

    def set_aside_later(self, checkpoint: Path) -> None:
        """Training goes on from ``checkpoint``: later ones in the storage are not to be resumed from."""
        for name in self.storage.names():
            if name > checkpoint.name:
                self.storage.set_aside(name)

    def close(self, *, quietly: bool = False) -> None:
        """Wait for the last upload.

        Args:
            quietly: say what is wrong instead of raising it, for another error is on its way.

        Raises:
            StorageError: the last checkpoint is not in the storage.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(self._timeout_s)
        problem = self._failed
        if self._thread.is_alive():
            problem = f"{self.storage.url}: the last checkpoint was not uploaded within {self._timeout_s:.0f} s"
        if problem is not None and not quietly:
            raise StorageError(f"{problem}; it is in the run directory")

    def _upload_on(self) -> None:
        while True:
            with self._changed:
                self._running = None
                while self._waiting is None and not self._closing:
                    self._changed.wait()
                self._running, self._waiting = self._waiting, None
            if self._running is None:
                return
            self._failed = None
            try:
                self._upload(self._running)
            except Exception as error:
                self._failed = str(error)
                log.warning("upload of %s failed", self._running, exc_info=True)
                self._say(f"Warning: {self._running.name} IS NOT UPLOADED, training goes on: {error}")

    def _upload(self, checkpoint: Path) -> None:
        began = time.monotonic()
        size = self.storage.upload(checkpoint)
        seconds = time.monotonic() - began
        log.info("uploaded %s to %s: %.1f MB in %.1f s", checkpoint.name, self.storage.url, size / 1e6, seconds)
        try:
            self.storage.keep_newest(self._keep)
        except StorageError as error:
            self._say(f"Warning: older checkpoints stay in the storage: {error}")
