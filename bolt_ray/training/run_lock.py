"""One driver per run directory: who trains in it, and when that is taken over.

<run_dir>/driver/000003.json   the owner: {"pid", "pid_started", "pid_space", "host", "token", "released"}

The highest number owns the directory. Whoever takes it over creates the next number, which only one process can; so the
numbers only grow, and an owner that slept through this finds a higher one and stops. A file's time of change is its
owner's heartbeat, set and compared by the clock of the file system, so that the clocks of two machines do not matter.

An owner on this machine is looked for by its process: a dead one is replaced at once. One on another machine, or in
another container, is dead when its heartbeat does not move.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from bolt_ray.core.errors import CheckpointError, RunError
from bolt_ray.core.files import write_file_atomically
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.pace import duration
from bolt_ray.training.telemetry.state import started_ticks, this_process

log = logging.getLogger(__name__)

HEARTBEAT_S = 5.0
DEAD_AFTER_S = 120.0
"""Of an owner elsewhere: a heartbeat that stands still for so long. File systems between machines show changes late,
NFS up to a minute."""
_ENDING = ".json"


class RunLock:
    """Held from `acquire` to `release`, or as a context; a thread keeps its heartbeat.

    Args:
        run: the directory exists.
        say: told once when the lock of an owner elsewhere has to be waited for.
        dead_after_s: see `DEAD_AFTER_S`.
        clock: gives the time in seconds; only differences count.
        wait: sleeps, in seconds.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        say: Callable[[str], None],
        heartbeat_s: float = HEARTBEAT_S,
        dead_after_s: float = DEAD_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] = time.sleep,
        me: Mapping[str, Any] | None = None,
    ) -> None:
        """``me``: tells this process from every other; as ``this_process()`` with ``host``."""
        self._run = run
        self._directory = run.drivers
        self._say = say
        self._heartbeat_s = heartbeat_s
        self._dead_after_s = dead_after_s
        self._clock = clock
        self._wait = wait
        self._me = dict(me or {**this_process(), "host": socket.gethostname()}) | {"token": uuid.uuid4().hex}
        self._file: Path | None = None
        self._lost: str | None = None
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Become the owner; waits for the heartbeat of an owner that cannot be looked for.

        Raises:
            CheckpointError: another process trains in the directory, or it cannot be written.
        """
        try:
            self._directory.mkdir(exist_ok=True)
            while self._file is None:
                self._file = self._take()
        except OSError as error:
            raise CheckpointError(
                f"{self._directory}: the run directory cannot be written ({error.strerror or error})"
            ) from None
        for older in _numbered(self._directory)[:-1]:
            older.unlink(missing_ok=True)
        self._thread = threading.Thread(target=self._beat, name="run-lock", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let the directory go. The file stays, for numbers must not come again."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(timeout=self._heartbeat_s)
        with suppress(OSError):
            if self._file is not None and self._is_own():
                _write(self._file, self._me | {"released": True})

    def check(self) -> None:
        """Whether the directory is still this process's; looks at the file system: before anything is replaced there.

        Raises:
            RunError: it has been taken over.
        """
        assert self._file is not None, "acquire() comes first"
        if self._lost is None:
            newest = (_numbered(self._directory) or [self._file])[-1]
            # The own file, too: a directory listing may be old on a network file system, an opened file is not.
            if newest != self._file or not self._is_own():
                other = self._whose(newest) if newest != self._file else {}
                self._lost = f"{_name(other)} has taken it over" if other else "it was taken over or removed"
        self.check_last_seen()

    def check_last_seen(self) -> None:
        """The same as the last heartbeat or `check` saw it; costs nothing.

        Raises:
            RunError: it has been taken over.
        """
        if self._lost is not None:
            raise RunError(
                f"{self._run.root}: this run directory is no longer this driver's, {self._lost}; it stops without "
                "writing another checkpoint"
            )

    def _take(self) -> Path | None:
        """The file that makes this process the owner, None if another was faster."""
        files = _numbered(self._directory)
        if files:
            self._wait_until_free(files[-1])
        number = int(files[-1].stem) + 1 if files else 1
        path = self._directory / f"{number:06d}{_ENDING}"
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            return None
        _write(path, self._me)
        if _numbered(self._directory)[-1] != path:  # made late, beside an owner of a higher number
            path.unlink(missing_ok=True)
            return None
        return path

    def _wait_until_free(self, file: Path) -> None:
        began = since = self._clock()
        beat, said = _beat_of(file), False
        while True:
            owner = self._whose(file)
            if (not owner and not file.exists()) or owner.get("released"):
                return
            here = owner.get("pid_space") == self._me["pid_space"]
            if here and started_ticks(owner["pid"]) != owner["pid_started"]:
                return
            if here or _beat_of(file) != beat:
                raise CheckpointError(
                    f"{self._run.root}: {_name(owner)} trains in this run directory; wait for it or stop it, or name "
                    "another run_dir"
                )
            quiet_s = self._clock() - since
            # A heartbeat that was old already is believed after the time in which a living one would have moved.
            old = self._age_s(file) > self._dead_after_s and quiet_s > 3 * self._heartbeat_s
            if old or quiet_s > self._dead_after_s:
                log.warning("%s: taken over from %s, which is gone", self._run.root, _name(owner))
                return
            if not said:
                said = True
                self._say(
                    f"{self._run.root} belongs to {_name(owner)}, which cannot be looked for from here: waiting up to "
                    f"{duration(self._dead_after_s - (self._clock() - began))} for a sign of it"
                )
            self._wait(self._heartbeat_s / 4)

    def _age_s(self, file: Path) -> float:
        """Since the last heartbeat, by the clock of the file system."""
        now = self._directory / f".now-{self._me['token']}"
        now.touch()
        try:
            return (_beat_of(now) - _beat_of(file)) / 1e9
        finally:
            now.unlink()

    def _is_own(self) -> bool:
        """Raises OSError where the file system does not answer, which is no loss."""
        assert self._file is not None
        try:
            owner = json.loads(self._file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return False
        return bool(owner["token"] == self._me["token"])

    def _whose(self, file: Path) -> dict[str, Any]:
        """What a file says; {} for one that is gone or not whole."""
        try:
            owner = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return owner if isinstance(owner, dict) else {}

    def _beat(self) -> None:
        assert self._file is not None
        while not self._closing.wait(self._heartbeat_s):
            try:
                with suppress(FileNotFoundError):  # not made again: `check` says what that means
                    os.utime(self._file)
                self.check()
            except RunError as error:
                log.error("%s", error)
                return
            except OSError as error:  # a file system that is away for a while
                log.warning("%s: no heartbeat can be written now (%s)", self._file, error)


def _numbered(directory: Path) -> list[Path]:
    """The owners' files, oldest first."""
    return sorted(path for path in directory.glob(f"*{_ENDING}") if path.stem.isdecimal())


def _write(path: Path, owner: Mapping[str, Any]) -> None:
    write_file_atomically(path, lambda file: file.write(json.dumps(owner).encode()))


def _beat_of(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return -1


def _name(owner: Mapping[str, Any]) -> str:
    return f"process {owner['pid']} on {owner['host']}" if owner else "another driver"
