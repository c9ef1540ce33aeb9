"""Which columns hold prompt, answer and id where nothing says so, and paths into nested columns. Pure functions.

The names are those of the formats people have: verl (``prompt``, ``reward_model.ground_truth``, ``extra_info.index``,
``data_source``), TRL (``prompt`` or ``messages``, and any answer column), OpenRLHF (``label``), GSM8K and MATH.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from bolt_ray.core.hints import nearest

PROMPT_COLUMNS = ("prompt", "messages", "question", "problem")
"""The first of them that has a value holds the prompt."""

ANSWER_COLUMNS = ("answer", "ground_truth", "solution", "label", "labels", "reward_model.ground_truth")
"""Whichever has a value holds the answer; two that differ are an error."""

ID_COLUMNS = ("extra_info.index", "id")
"""Numbers of rows: unique in a file at best, so a key made of one carries the prompt's digest, too."""

SOURCE_COLUMN = "data_source"
"""The data set a row is of, where several are mixed in one file."""

NESTED_COLUMNS = ("reward_model", "extra_info")
"""Columns that are objects, also where a CSV or JSONL file has them as JSON text."""

MISSING = object()
"""What :func:`look_up` gives for a column that is not there."""


class UnusableRowError(ValueError):
    """``args``: the reason, a word for counting, and a message for people."""


def look_up(row: Mapping[str, Any], name: str) -> Any:
    """The value of a column, or of a part of one (``reward_model.ground_truth``); MISSING if there is none."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return MISSING
        value = value[part]
    return value


def column(row: Mapping[str, Any], name: str, *, looked_for: Iterable[str] = ()) -> Any:
    """The value of a column that must be there.

    Args:
        looked_for: the names tried in its place, for the message.

    Raises:
        UnusableRowError: it is not there.
    """
    value = look_up(row, name)
    if value is not MISSING:
        return value
    head, _, rest = name.partition(".")
    if rest and isinstance(row.get(head), Mapping):
        parts = ", ".join(sorted(str(part) for part in row[head])) or "nothing"
        message = f"column '{head}' has no part '{rest}'; it has: {parts}."
    else:
        message = missing_column(name, sorted(str(present) for present in row))
    others = [other for other in looked_for if other != name]
    if others:
        message += f" (Nor is there one of: {', '.join(others)}.)"
    raise UnusableRowError("missing_column", f"{message} Map it under columns: of the dataset, or choose a preset.")


def missing_column(name: str, present: list[str]) -> str:
    """The sentence for a column that is not there: its name, the nearest one, and those present."""
    near = nearest(name, present)
    hint = f"; did you mean '{near}'?" if near else "."
    return f"no column '{name}'{hint} Columns present: {', '.join(present) or 'none'}."


def nested(names: Iterable[str | None]) -> tuple[str, ...]:
    """The columns that are entered by paths among ``names``, and those that always may be."""
    heads = [name.split(".")[0] for name in names if name is not None and "." in name]
    return tuple(dict.fromkeys((*NESTED_COLUMNS, *heads)))


def opened(row: Mapping[str, Any], names: Iterable[str]) -> Mapping[str, Any]:
    """The row with those of ``names`` that are the JSON text of an object as that object."""
    found = {name: value for name in names if isinstance(value := json_value(row.get(name)), dict)}
    return {**row, **found} if found else row


def json_value(value: object) -> Any:
    """The list or object that a text is the JSON of; MISSING for anything else."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("{", "["):
        return MISSING
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return MISSING


def first_with_value(row: Mapping[str, Any], names: Iterable[str]) -> str | None:
    """The first of ``names`` that has a value; without one, the first that is there at all; else None."""
    there = [name for name in names if look_up(row, name) is not MISSING]
    return next((name for name in there if look_up(row, name) is not None), there[0] if there else None)


def kind_of(value: object) -> str:
    """A value's type and a glimpse of it, for messages."""
    if value is None:
        return "empty (null)"
    names = {
        bool: "true/false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
        str: "a text",
    }
    glimpse = repr(value)
    return f"{names.get(type(value), type(value).__name__)} ({glimpse[:40]}{'…' if len(glimpse) > 40 else ''})"


def text_of(value: object, name: str) -> str:
    """A value that must be a text.

    Raises:
        UnusableRowError: it is none.
    """
    if not isinstance(value, str):
        reason = "empty_prompt" if value is None else "wrong_type"
        raise UnusableRowError(reason, f"column '{name}' must be a text, not {kind_of(value)}")
    return value


def check_unicode(text: str, name: str) -> None:
    """
    Raises:
        UnusableRowError: the text holds half of a surrogate pair, which no file can.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnusableRowError(
            "invalid_utf8", f"column '{name}': character {error.start + 1} is half of a surrogate pair"
        ) from error
