"""Rows of samples files as a small table: every text once, columns in one order."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

MAX_TEXT = 20_000
"""Characters of a text that the page holds; the whole stands in the file."""

TEXTS = ("prompt", "completion", "answer", "unscored", "dropped", "source", "prompt_id")
NUMBERS = (
    "step reward v_hat surprise advantage num_tokens visits draw_weight gap mean_logprob oldest_version newest_version "
    "policy_version last_version group_id sample_index"
).split()
PLAIN = ("kind", "why", "parts", "metrics", "extras", "truncated", "correct", "cut")


def sample_table(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``columns``, ``rows`` in that order, and ``texts``, to which the columns in ``of_text`` hold positions.

    A text that is not one, such as a list of messages, becomes one; numbers that are not finite become null.
    """
    positions: dict[str, int] = {}
    table = []
    for row in rows:
        texts = [_position(row.get(name), positions) for name in TEXTS]
        numbers = [number(row.get(name)) for name in NUMBERS]
        table.append([*texts, *numbers, *(_plain(row.get(name)) for name in PLAIN)])
    return {
        "columns": [*TEXTS, *NUMBERS, *PLAIN],
        "of_text": list(TEXTS),
        "texts": list(positions),
        "rows": table,
    }


def number(value: Any, digits: int = 5) -> float | int | None:
    """A number with as many digits as a picture can show; None for what is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")


def _position(value: Any, positions: dict[str, int]) -> int | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else _as_text(value)
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}… ({len(text) - MAX_TEXT:,} more characters in the file)"
    return positions.setdefault(text, len(positions))


def _as_text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(part, dict) and "role" in part for part in value):
        return "\n\n".join(f"[{part['role']}]\n{part.get('content')}" for part in value)
    return json.dumps(value, default=str, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return number(value) if isinstance(value, float) else value
