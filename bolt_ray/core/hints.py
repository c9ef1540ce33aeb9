"""The nearest of the names a user could have meant, for messages about an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_CUTOFF = 0.7
"""Names less similar than this are not suggested; 1 is equality. ``ppo`` is 0.67 of ``spo``, another method."""


def nearest(name: str, known: Iterable[str], *, cutoff: float = _CUTOFF) -> str | None:
    """The known name most similar to ``name``, None if none is as similar as ``cutoff``, 1 for equality."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)
