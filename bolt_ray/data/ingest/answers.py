"""The reference answer of a row: from the column that has it, by a preset, or the assistant's reply. Pure functions."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from bolt_ray.data.ingest.columns import (
    MISSING,
    UnusableRowError,
    check_unicode,
    column,
    first_with_value,
    look_up,
    text_of,
)
from bolt_ray.data.ingest.known_datasets import PRESETS


def find_answer(
    row: Mapping[str, Any], names: Sequence[str], *, required: bool, preset: str | None, reply: str | None
) -> tuple[str, str | None]:
    """The answer, "" if there is none, and the column it stands in.

    Args:
        names: columns that may hold it; empty: the row has none.
        required: the first of them must be there.
        preset: finds the answer in place of ``names``.
        reply: the assistant's last message, which is the answer where no column has one.

    Raises:
        UnusableRowError: two columns hold different answers, or the column asked for is not there.
    """
    if preset is not None:
        return _by_preset(row, preset)
    if required:
        return plain(column(row, names[0]), names[0]), names[0]
    there = {name: look_up(row, name) for name in names}
    found = {name: plain(value, name) for name, value in there.items() if value is not MISSING}
    found = {name: text for name, text in found.items() if text.strip()}
    if not found:
        return (reply if reply is not None and names else ""), None
    first, *others = found
    for name in others:
        if found[name].strip() != found[first].strip():
            raise UnusableRowError(
                "several_answers",
                f"columns '{first}' ({_glimpse(found[first])}) and '{name}' ({_glimpse(found[name])}) differ: say "
                f"which holds the answer in the dataset's entry, e.g. columns: {{answer: {first}}}",
            )
    return found[first], first


def _by_preset(row: Mapping[str, Any], preset_name: str) -> tuple[str, str]:
    preset = PRESETS[preset_name]
    name = first_with_value(row, preset.answers)
    if name is not None or preset.extract is None:
        name = name or preset.answers[0]
        return plain(column(row, name, looked_for=preset.answers), name), name
    name = first_with_value(row, preset.solutions) or preset.solutions[0]
    solution = text_of(column(row, name, looked_for=(*preset.answers, *preset.solutions)), name)
    try:
        return preset.extract(solution), name
    except ValueError as error:
        raise UnusableRowError("no_answer", f"column '{name}': {error} (preset {preset_name})") from error


def plain(value: object, name: str) -> str:
    """An answer as text: texts and numbers as they are, lists and objects as JSON.

    Raises:
        UnusableRowError: an object that only has the answer inside it, or a text no file can hold.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        check_unicode(value, name)
        return value
    if isinstance(value, dict) and "ground_truth" in value:
        raise UnusableRowError(
            "wrong_type",
            f"column '{name}' is an object with the answer inside: columns: {{answer: {name}.ground_truth}}",
        )
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=as_text)
    return as_text(value)


def as_text(value: object) -> str:
    """Dates, decimals and the like as text; bytes as base64."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


def _glimpse(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
