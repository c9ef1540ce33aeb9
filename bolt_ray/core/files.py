"""Files that survive a crash and a power cut, and directories that are complete as soon as they are there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def fsync_path(path: Path) -> None:
    """Make what was written to a file survive a power cut; of a directory, the renames and new files in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_file_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill a file beside ``path``, fsync it and rename it to ``path``.

    ``path`` then holds either what it held before or all of the new content.
    """
    # The name does not vary: a killed writer leaves at most one such file, and its successor reuses it.
    aside = path.with_name(f".{path.name}.part")
    try:
        with aside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    fsync_path(path.parent)


def ensure_directory(directory: Path, *, write: Callable[[Path], object]) -> None:
    """Make ``directory`` unless it exists; it is complete as soon as it does.

    Two processes may do this at once: each writes to a temporary directory beside it, and the first rename wins.

    Args:
        directory: the directory wanted.
        write: fills the empty directory it is given; what it raises is passed on and leaves nothing behind.
    """
    if directory.is_dir():
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    temporary.chmod(0o755)  # as mkdir would have made it: a cache may be shared
    try:
        write(temporary)
        try:
            temporary.rename(directory)
        except OSError:
            if not directory.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
