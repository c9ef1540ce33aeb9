"""One raw row of a dataset becomes a prompt, or the reason why it does not. Pure functions."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from bolt_ray.core.hints import nearest
from bolt_ray.core.keys import prompt_key
from bolt_ray.core.records import Messages
from bolt_ray.data.ingest.known_datasets import PRESETS, Preset
from bolt_ray.data.settings import DatasetSettings, template_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalRow:
    """A row ready for the store.

    Attributes:
        key: identity of the prompt in the baseline store.
        has_id: True if the key is the row's own id.
        prompt: text or chat messages, after the prompt template.
        answer: reference answer, "" if there is none.
        metadata: JSON text of the other columns.
    """

    key: str
    has_id: bool
    prompt: str | Messages
    answer: str
    metadata: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be used: a short reason to count by, and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FilteredRow:
    """A good row that a filter leaves out."""

    reason: str


class _UnusableRowError(ValueError):
    """``args``: the reason, a word for counting, and a message for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRules:
    """What :func:`normalize_row` needs of a dataset, preset and settings resolved.

    Attributes:
        prompt, answer, prompt_id: columns; the last two None if there is none.
        needs_answer, needs_id: a row without that column is a bad row.
        metadata: columns kept, or None for all others.
        template: prompt template and the columns it names, or None.
        preset: name of the preset that finds the answer, or None.
        chat, system_prompt: wrap a text prompt in messages.
        min_chars, max_chars: length filter; max_prompt_chars: above it the row is bad.
    """

    prompt: str
    answer: str | None
    prompt_id: str | None
    needs_answer: bool
    needs_id: bool
    metadata: tuple[str, ...] | None
    template: str | None
    template_fields: tuple[str, ...]
    preset: str | None
    chat: bool
    system_prompt: str | None
    min_chars: int
    max_chars: int | None
    max_prompt_chars: int


def row_rules(dataset: DatasetSettings, *, preset: str | None, max_prompt_chars: int) -> RowRules:
    """Combine a preset (or none) with what the dataset's own settings say; the settings win."""
    columns = dataset.columns
    chosen = columns.chosen
    known: Preset | None = PRESETS[preset] if preset else None
    answer_is_ours = "answer" in chosen or known is None
    template = dataset.prompt_template
    if template is None and known is not None and "prompt" not in chosen:
        template = known.template
    return RowRules(
        prompt=columns.prompt if "prompt" in chosen else "prompt" if known is None else known.prompt,
        answer=(columns.answer if "answer" in chosen else "answer") if answer_is_ours else None,
        prompt_id=columns.prompt_id if "prompt_id" in chosen else "prompt_id",
        needs_answer="answer" in chosen and columns.answer is not None,
        needs_id="prompt_id" in chosen and columns.prompt_id is not None,
        metadata=None if columns.metadata is None else tuple(columns.metadata),
        template=template,
        template_fields=tuple(template_columns(template)) if template is not None else (),
        preset=None if answer_is_ours else preset,
        chat=dataset.chat,
        system_prompt=dataset.system_prompt,
        min_chars=dataset.filters.min_chars,
        max_chars=dataset.filters.max_chars,
        max_prompt_chars=max_prompt_chars,
    )


def normalize_row(row: Mapping[str, Any], rules: RowRules) -> NormalRow | BadRow | FilteredRow:
    """Turn one raw row into a prompt.

    Args:
        row: column name to value, as the file has them.
        rules: from :func:`row_rules`.
    """
    try:
        prompt = _prompt(row, rules)
        length = prompt_chars(prompt)
        if length > rules.max_prompt_chars:
            raise _UnusableRowError(
                "prompt_too_long",
                f"the prompt has {length:,} characters, more than data.max_prompt_chars {rules.max_prompt_chars:,}",
            )
        answer, answer_column = _answer(row, rules)
        own_id = _own_id(row, rules)
        metadata = _metadata(row, rules, used={rules.prompt, answer_column, rules.prompt_id})
    except _UnusableRowError as problem:
        reason, message = problem.args
        return BadRow(reason=reason, message=message)
    if length < rules.min_chars:
        return FilteredRow(reason="too_short")
    if rules.max_chars is not None and length > rules.max_chars:
        return FilteredRow(reason="too_long")
    key = own_id if own_id is not None else prompt_key(prompt)
    return NormalRow(key=key, has_id=own_id is not None, prompt=prompt, answer=answer, metadata=metadata)


def prompt_chars(prompt: str | Messages) -> int:
    """Length in characters: of the text, or of all messages' contents."""
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(message["content"]) for message in prompt)


def key_hash(key: str) -> int:
    """64-bit hash of a key, for finding duplicates and for the held-out split; the same on every machine."""
    return xxhash.xxh3_64_intdigest(key.encode("utf-8"))


def missing_column(name: str, present: list[str]) -> str:
    """The sentence for a column that is not there: its name, the nearest one, and those present."""
    near = nearest(name, present)
    hint = f"; did you mean '{near}'?" if near else "."
    return f"no column '{name}'{hint} Columns present: {', '.join(present) or 'none'}."


def _column(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise _UnusableRowError(
            "missing_column",
            missing_column(name, sorted(str(column) for column in row))
            + " Map it under columns: of the dataset, or choose a preset.",
        )
    return row[name]


def _prompt(row: Mapping[str, Any], rules: RowRules) -> str | Messages:
    if rules.template is None:
        value = _column(row, rules.prompt)
        if isinstance(value, list):
            return _messages(value, rules)
        text = _text(value, rules.prompt)
    else:
        fields = {name: _scalar(_column(row, name), name) for name in rules.template_fields}
        text = rules.template.format_map(fields)
    if not text.strip():
        raise _UnusableRowError("empty_prompt", f"column '{rules.prompt}': the prompt is empty")
    _check_unicode(text, rules.prompt)
    if not rules.chat:
        return text
    system = [] if rules.system_prompt is None else [{"role": "system", "content": rules.system_prompt}]
    return [*system, {"role": "user", "content": text}]


def _messages(value: list[Any], rules: RowRules) -> Messages:
    messages: Messages = []
    for number, message in enumerate(value, start=1):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise _UnusableRowError(
                "wrong_type",
                f"column '{rules.prompt}': message {number} is not {{role, content}} but {_kind(message)}",
            )
        content = _text(message["content"], f"{rules.prompt}[{number}].content")
        _check_unicode(content, rules.prompt)
        messages.append({"role": _text(message["role"], f"{rules.prompt}[{number}].role"), "content": content})
    if not any(message["content"].strip() for message in messages):
        raise _UnusableRowError("empty_prompt", f"column '{rules.prompt}': the messages are empty")
    if rules.system_prompt is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": rules.system_prompt})
    return messages


def _answer(row: Mapping[str, Any], rules: RowRules) -> tuple[str, str | None]:
    """The answer and the column it stands in."""
    if rules.preset is None:
        if rules.answer is None or (rules.answer not in row and not rules.needs_answer):
            return "", None
        return _plain(_column(row, rules.answer), rules.answer), rules.answer
    preset = PRESETS[rules.preset]
    if preset.solution is None or preset.extract is None or (preset.answer is not None and preset.answer in row):
        column = preset.answer or "answer"
        return _plain(_column(row, column), column), column
    solution = _text(_column(row, preset.solution), preset.solution)
    try:
        return preset.extract(solution), preset.solution
    except ValueError as error:
        raise _UnusableRowError("no_answer", f"column '{preset.solution}': {error} (preset {rules.preset})") from error


def _own_id(row: Mapping[str, Any], rules: RowRules) -> str | None:
    if rules.prompt_id is None or (rules.prompt_id not in row and not rules.needs_id):
        return None
    value = _column(row, rules.prompt_id)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise _UnusableRowError(
            "bad_id", f"column '{rules.prompt_id}' must be a text or a whole number, not {_kind(value)}"
        )
    return str(value)


def _metadata(row: Mapping[str, Any], rules: RowRules, *, used: set[str | None]) -> str:
    if rules.metadata is None:
        kept = {str(name): value for name, value in row.items() if name not in used}
    else:
        kept = {name: _column(row, name) for name in rules.metadata}
    return json.dumps(kept, ensure_ascii=False, default=_json_value)


def _json_value(value: object) -> str:
    """Dates, decimals and the like as text; bytes as base64."""
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else str(value)


def _text(value: object, column: str) -> str:
    if not isinstance(value, str):
        reason = "empty_prompt" if value is None else "wrong_type"
        raise _UnusableRowError(reason, f"column '{column}' must be a text, not {_kind(value)}")
    return value


def _scalar(value: object, column: str) -> str:
    """A text or number put into a prompt template."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return _text(value, column)


def _plain(value: object, column: str) -> str:
    """An answer as text: texts and numbers as they are, lists and objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        _check_unicode(value, column)
        return value
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, ensure_ascii=False, default=_json_value)
    return _json_value(value)


def _check_unicode(text: str, column: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _UnusableRowError(
            "invalid_utf8", f"column '{column}': character {error.start + 1} is half of a surrogate pair"
        ) from error


def _kind(value: object) -> str:
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
