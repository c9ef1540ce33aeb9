"""Cached directories of the embedded task, named by the settings that made them."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from bolt_ray.core.settings import Settings
from bolt_ray.tasks.arithmetic.problems import RECIPE


def settings_digest(settings: Settings, part: type[Settings]) -> str:
    """32 hex digits of the settings that belong to ``part``, a record ``settings`` is one of; equal settings give equal
    digests on every machine."""
    chosen = {field.name: getattr(settings, field.name) for field in fields(cast("Any", part))}
    text = json.dumps({"recipe": RECIPE, **chosen}, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
