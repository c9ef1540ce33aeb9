"""The nearest of the names a user could have meant, for messages about an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_CUTOFF = 0.5
"""Names less similar than this are not suggested; 1 is equality."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most similar to ``name``, None if none is similar."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=_CUTOFF)), None)
