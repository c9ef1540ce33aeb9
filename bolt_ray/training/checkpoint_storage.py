"""Checkpoints of one run in cloud storage: ``s3://bucket/path/step-000100/…``, the same files as in the run directory.

Its ``manifest.json`` is written last, when all other files are there with their sizes: without it a checkpoint is none.
Every request is tried again for a while. Credentials come from the environment alone, as AWS and Google have them.
"""

from __future__ import annotations

import logging
import os
import posixpath
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from bolt_ray.core.digests import BLOCK_BYTES, blocks_of
from bolt_ray.core.errors import CheckpointError, StorageError
from bolt_ray.core.secrets import is_secret, masked_text
from bolt_ray.training.checkpoints import MANIFEST, read_checkpoint, read_manifest, unfinished_checkpoint
from bolt_ray.training.run_directory import STEP_PREFIX, RunDirectory

SCHEMES = ("s3", "gs", "file")
ATTEMPTS = 6
"""Of every request, with pauses of 1, 2, 4, 8 and 16 seconds; the S3 client tries three times within each."""

PARALLEL = 8
"""Files on their way at once."""

_SET_ASIDE = f"set-aside-{MANIFEST}"
_REFUSALS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY", "INVALID_SIGNATURE", "SIGNATURE_DOES_NOT_MATCH", "NO_SUCH_BUCKET")
"""What no further attempt changes."""

log = logging.getLogger(__name__)
T = TypeVar("T")


def is_storage_url(text: str) -> bool:
    """Whether a text names storage rather than a path."""
    return urlsplit(text).scheme in SCHEMES


def storage_url_problem(url: str) -> str | None:
    """What is wrong with the URL of a storage."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not (parts.netloc or parts.path):
        return "is no URL such as s3://bucket/path, gs://bucket/path or file:///directory"
    if "@" in parts.netloc or any(is_secret(name) for name, _ in parse_qsl(parts.query)):
        return (
            "holds credentials, which would be written down with the settings; leave them to the environment "
            "(AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS)"
        )
    return None


def split_checkpoint_url(url: str) -> tuple[str, str | None]:
    """The URL of a storage, and the checkpoint's name if ``url`` is that of one."""
    parts = urlsplit(url)
    place, _, name = parts.path.rstrip("/").rpartition("/")
    if not name.startswith(STEP_PREFIX):
        return url, None
    return urlunsplit(parts._replace(path=place)), name


class CheckpointStorage:
    """The checkpoints below one URL; methods may be called by several threads.

    Attributes:
        url: of the directory, without what comes behind "?".
    """

    def __init__(self, url: str, *, attempts: int = ATTEMPTS, pause: Callable[[float], None] = time.sleep) -> None:
        """Nothing is asked of the storage yet.

        Raises:
            CheckpointError: the URL cannot be used.
        """
        from pyarrow.fs import FileSystem

        problem = storage_url_problem(url)
        if problem is not None:
            raise CheckpointError(f"checkpoint storage {masked_text(url, environ=os.environ)!r} {problem}")
        parts = urlsplit(url)
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
        self._attempts, self._pause = attempts, pause
        if parts.scheme == "s3":  # a small file is one request then
            url += ("&" if parts.query else "?") + "allow_delayed_open=true"
        try:
            self._files, root = FileSystem.from_uri(url)
        except (OSError, ValueError) as error:
            raise CheckpointError(self._text("cannot be used", error)) from None
        self._root = root.rstrip("/")
        self._has_directories = parts.scheme == "file"

    def check(self) -> None:
        """Prove that files can be written, read and removed there.

        Raises:
            CheckpointError: they cannot; what to do about it.
        """
        path = f"{self._root}/.write-test-{os.getpid()}"
        try:
            self._write(path, lambda: [b"test"])
            found = bytearray()
            self._try(lambda: self._read(path, found.extend), "a file cannot be read")
            if not found.endswith(b"test"):
                raise StorageError(f"{self.url}: does not give back what was written")
            self._delete(self._files.delete_file, path)
        except StorageError as error:
            raise CheckpointError(
                f"checkpoint.storage: {error}. The bucket must exist, and credentials that may write, read, list and "
                "delete there come from the environment: for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "AWS_PROFILE or the machine's role, for gs:// GOOGLE_APPLICATION_CREDENTIALS or the machine's account"
            ) from None

    def names(self) -> list[str]:
        """The whole checkpoints, oldest first."""
        return sorted(name for name, files in self._sizes().items() if MANIFEST in files)

    def upload(self, checkpoint: Path) -> int:
        """Copy a finished checkpoint; its bytes.

        Raises:
            StorageError: it is not there whole, also after all attempts.
        """
        name = checkpoint.name
        sizes = {file: digest.bytes for file, digest in read_manifest(checkpoint).items()}
        if self._sizes(name):  # of an attempt that failed, or of steps that were trained again
            self.remove(name)
        self._together(sizes, lambda file: self._write(self._path(name, file), lambda: blocks_of(checkpoint / file)))
        found = self._sizes(name).get(name, {})
        wrong = [file for file, size in sizes.items() if found.get(file) != size]
        if wrong:
            there = found.get(wrong[0], 0)
            raise StorageError(
                f"{self.url}/{name}/{wrong[0]}: {there:,} bytes are there, {sizes[wrong[0]]:,} were sent"
            )
        self._write(self._path(name, MANIFEST), lambda: blocks_of(checkpoint / MANIFEST))
        return sum(sizes.values())

    def download(self, name: str, run: RunDirectory) -> Path:
        """Copy a checkpoint into the run directory, where it is then whole or not there.

        Raises:
            CheckpointError: it is damaged.
            StorageError: it cannot be fetched.
        """
        with unfinished_checkpoint(run, name) as aside:
            self._fetch(name, MANIFEST, aside)
            self._together(read_manifest(aside), lambda file: self._fetch(name, file, aside))
            read_checkpoint(aside)
        return run.checkpoints / name

    def remove(self, name: str) -> None:
        """Remove a checkpoint, its manifest first."""
        self.set_aside(name)
        self._delete(self._files.delete_dir, f"{self._root}/{name}")

    def set_aside(self, name: str) -> None:
        """Keep the files of a checkpoint that is not to be resumed from; ``keep_newest`` removes them."""
        path = self._path(name, MANIFEST)
        if MANIFEST in self._sizes(name).get(name, {}):
            self._try(lambda: self._files.copy_file(path, self._path(name, _SET_ASIDE)), f"{name} cannot be set aside")
            self._delete(self._files.delete_file, path)

    def keep_newest(self, count: int) -> None:
        """Remove all but the newest ``count`` up to the newest that is whole, and what is not whole."""
        whole = self.names()
        for name in sorted(self._sizes()):
            if whole and name <= whole[-1] and name not in whole[-count:]:
                self.remove(name)

    def _sizes(self, name: str | None = None) -> dict[str, dict[str, int]]:
        """By checkpoint: the size of each file, by its path within; of all of them, or of one."""
        from pyarrow.fs import FileSelector, FileType

        place = self._root if name is None else f"{self._root}/{name}"
        selector = FileSelector(place, recursive=True, allow_not_found=True)
        found: dict[str, dict[str, int]] = {}
        for info in self._try(lambda: self._files.get_file_info(selector), "cannot be listed"):
            if info.type == FileType.File:
                checkpoint, _, file = info.path[len(self._root) + 1 :].partition("/")
                if checkpoint.startswith(STEP_PREFIX) and file:
                    found.setdefault(checkpoint, {})[file] = info.size
        return found

    def _path(self, name: str, file: str) -> str:
        return f"{self._root}/{name}/{file}"

    def _write(self, path: str, blocks: Callable[[], Iterable[bytes]]) -> None:
        def write() -> None:
            if self._has_directories:
                self._files.create_dir(posixpath.dirname(path), recursive=True)
            with self._files.open_output_stream(path) as stream:
                for block in blocks():
                    stream.write(block)

        self._try(write, f"{path[len(self._root) + 1 :]} cannot be written")

    def _delete(self, delete: Callable[[str], None], path: str) -> None:
        def gone() -> None:
            with suppress(FileNotFoundError):  # an attempt whose answer was lost
                delete(path)

        self._try(gone, f"{path[len(self._root) + 1 :]} cannot be removed")

    def _read(self, path: str, write: Callable[[bytes], object]) -> None:
        with self._files.open_input_stream(path) as stream:
            while block := stream.read(BLOCK_BYTES):
                write(block)

    def _fetch(self, name: str, file: str, directory: Path) -> None:
        target = directory / file
        if not target.resolve().is_relative_to(directory.resolve()):
            raise CheckpointError(f"{self.url}/{name}: its manifest names {file!r}, which is no file of it")
        target.parent.mkdir(parents=True, exist_ok=True)

        def fetch() -> None:
            with target.open("wb") as copy:
                try:
                    self._read(self._path(name, file), copy.write)
                except FileNotFoundError:
                    raise CheckpointError(f"{self.url}/{name}/{file}: missing from the checkpoint") from None

        self._try(fetch, f"{name}/{file} cannot be read")

    def _together(self, files: Iterable[str], do: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(PARALLEL) as pool:
            for done in [pool.submit(do, file) for file in files]:
                done.result()

    def _try(self, request: Callable[[], T], failing: str) -> T:
        """The result of ``request``, tried again after errors that may pass.

        Raises:
            StorageError: the last attempt's.
        """
        for attempt in range(self._attempts):
            try:
                return request()
            except OSError as error:
                text = self._text(failing, error)
                final = isinstance(error, FileNotFoundError | PermissionError) or any(
                    word in str(error).upper() for word in _REFUSALS
                )
                if final or attempt + 1 == self._attempts:
                    raise StorageError(text) from None
                log.warning("%s; trying again", text)
                self._pause(2.0**attempt)
        raise AssertionError("at least one attempt is made")

    def _text(self, failing: str, error: Exception) -> str:
        return masked_text(f"{self.url}: {failing}: {error}", environ=os.environ)
