"""The settings of runs side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MISSING = "–"
_OF_EVERY_RUN = ("run_dir", "resume", "resume_changes")
"""Settings that differ between any two runs and say nothing."""


def differences(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The settings in which runs differ: key, and its value in each; a run without the key has ``MISSING``."""
    flat = [dict(_leaves(config)) for config in configs]
    keys = dict.fromkeys(key for tree in flat for key in tree)
    found = []
    for key in keys:
        values = [tree.get(key, MISSING) for tree in flat]
        if len(set(values)) > 1 and key not in _OF_EVERY_RUN:
            found.append((key, values))
    return found


def _leaves(tree: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{place}.{key}" if place else str(key))
    elif isinstance(tree, list) and any(isinstance(item, Mapping) for item in tree):
        for number, item in enumerate(tree):
            yield from _leaves(item, f"{place}[{number}]")
    else:
        yield place, tree if isinstance(tree, str) else json.dumps(tree, default=str, ensure_ascii=False)
