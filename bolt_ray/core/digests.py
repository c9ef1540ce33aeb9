"""What tells a file that is whole from one that is not: its size and its digest, made while it is written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash

from bolt_ray.core.errors import StorageError

BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, slots=True)
class FileDigest:
    """Of one file: its bytes, and their XXH3 digest of 128 bits as 32 hexadecimal digits."""

    bytes: int
    xxh3_128: str


class DigestedFile:
    """A new file and the digest of what is written to it; as a context it is fsynced at the end."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = xxhash.xxh3_128()
        self._bytes = 0

    def __enter__(self) -> DigestedFile:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def write(self, block: Any) -> None:
        """Append ``block``: bytes, or what has their buffer interface."""
        self._hash.update(block)
        self._bytes += len(block)
        self._file.write(block)

    @property
    def digest(self) -> FileDigest:
        """Of what was written so far."""
        return FileDigest(self._bytes, self._hash.hexdigest())


def write_digested(path: Path, blocks: Iterable[Any]) -> FileDigest:
    """Write a file and fsync it; the digest of what was handed over, whatever the disk made of it."""
    with DigestedFile(path) as file:
        for block in blocks:
            file.write(block)
    return file.digest


def blocks_of(path: Path) -> Iterator[bytes]:
    """The content of a file, piece by piece."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def digest_file(path: Path) -> FileDigest:
    """The digest of a file that is there, by reading all of it."""
    state, size = xxhash.xxh3_128(), 0
    for block in blocks_of(path):
        state.update(block)
        size += len(block)
    return FileDigest(size, state.hexdigest())


@contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """Turn an error of the operating system into one sentence.

    Raises:
        StorageError: names ``what`` was being written, the file where it is known, and what is wrong.
    """
    try:
        yield
    except (TimeoutError, ConnectionError):
        raise  # of another process, that no file is to blame for
    except OSError as error:
        raise StorageError(f"{what} could not be written: {describe_os_error(error)}") from error


def describe_os_error(error: OSError) -> str:
    """What is wrong, of which file."""
    text = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {text}" if error.filename else text
