"""One raw row of a dataset becomes a prompt, or the reason why it does not. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from bolt_ray.core.keys import prompt_key
from bolt_ray.core.records import Messages
from bolt_ray.data.ingest.answers import as_text, find_answer
from bolt_ray.data.ingest.chat import messages_in, read_messages
from bolt_ray.data.ingest.columns import (
    ANSWER_COLUMNS,
    ID_COLUMNS,
    MISSING,
    PROMPT_COLUMNS,
    SOURCE_COLUMN,
    UnusableRowError,
    check_unicode,
    column,
    first_with_value,
    kind_of,
    look_up,
    nested,
    opened,
    text_of,
)
from bolt_ray.data.ingest.known_datasets import PRESETS, Preset
from bolt_ray.data.settings import DatasetSettings, template_columns

_DIGEST_IN_KEY = 16
"""Hex digits of a prompt's digest in a key made from a row's number: 64 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalRow:
    """A row ready for the store.

    Attributes:
        key: identity of the prompt in the baseline store.
        identity: rows that agree in it are the same prompt: the row's own id, else the prompt's digest.
        has_id: True if the key is the row's own id, from the column for it.
        prompt: text or chat messages, after the prompt template.
        answer: reference answer, "" if there is none.
        metadata: JSON text of the other columns.
        label: the data set the row says it is of, "" if it says none.
    """

    key: str
    identity: str
    has_id: bool
    prompt: str | Messages
    answer: str
    metadata: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be used: a short reason to count by, and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FilteredRow:
    """A good row that a filter leaves out."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RowRules:
    """What :func:`normalize_row` needs of a dataset, preset and settings resolved.

    Attributes:
        prompts: columns that may hold the prompt, by precedence.
        answers: columns that may hold the answer.
        prompt_id: column of the id, None if there is none.
        row_numbers: columns of a row's number, which becomes part of the key.
        nested: columns that may be the JSON text of an object.
        needs_answer, needs_id: a row without that column is a bad row.
        metadata: columns kept, or None for all others.
        template: prompt template, or None; template_fields: the columns it names.
        instruction: put behind a text prompt.
        preset: name of the preset that finds the answer, or None.
        chat, system_prompt: wrap a text prompt in messages.
        labelled: the row itself may say what data set it is of.
        min_chars, max_chars: length filter; max_prompt_chars: above it the row is bad.
    """

    prompts: tuple[str, ...]
    answers: tuple[str, ...]
    prompt_id: str | None
    row_numbers: tuple[str, ...]
    nested: tuple[str, ...]
    needs_answer: bool
    needs_id: bool
    metadata: tuple[str, ...] | None
    template: str | None
    template_fields: tuple[str, ...]
    instruction: str
    preset: str | None
    chat: bool
    system_prompt: str | None
    labelled: bool
    min_chars: int
    max_chars: int | None
    max_prompt_chars: int


def row_rules(dataset: DatasetSettings, *, preset: str | None, max_prompt_chars: int) -> RowRules:
    """Combine a preset (or none) with what the dataset's own settings say; the settings win."""
    columns = dataset.columns
    chosen = columns.chosen
    known: Preset | None = PRESETS[preset] if preset else None
    answer_is_ours = "answer" in chosen or known is None
    own_answer = () if columns.answer is None else (columns.answer,)
    template = dataset.prompt_template
    asked_as_known = known is not None and template is None and "prompt" not in chosen
    metadata = None if columns.metadata is None else tuple(columns.metadata)
    return RowRules(
        prompts=(columns.prompt,) if "prompt" in chosen else PROMPT_COLUMNS if known is None else known.prompts,
        answers=() if not answer_is_ours else own_answer if "answer" in chosen else ANSWER_COLUMNS,
        prompt_id=columns.prompt_id if "prompt_id" in chosen else "prompt_id",
        row_numbers=() if "prompt_id" in chosen else ID_COLUMNS,
        nested=nested((columns.prompt, columns.answer, columns.prompt_id, *(metadata or ()))),
        needs_answer="answer" in chosen and columns.answer is not None,
        needs_id="prompt_id" in chosen and columns.prompt_id is not None,
        metadata=metadata,
        template=template,
        template_fields=tuple(template_columns(template)) if template is not None else (),
        instruction=known.instruction if known is not None and asked_as_known else "",
        preset=None if answer_is_ours else preset,
        chat=dataset.chat,
        system_prompt=dataset.system_prompt,
        labelled=dataset.source is None,
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
    row = opened(row, rules.nested)
    try:
        prompt, reply, prompt_column = _prompt(row, rules)
        length = prompt_chars(prompt)
        if length > rules.max_prompt_chars:
            raise UnusableRowError(
                "prompt_too_long",
                f"the prompt has {length:,} characters, more than data.max_prompt_chars {rules.max_prompt_chars:,}",
            )
        answer, answer_column = find_answer(
            row, rules.answers, required=rules.needs_answer, preset=rules.preset, reply=reply
        )
        own_id = _own_id(row, rules)
        used = {prompt_column, rules.prompt_id, answer_column if answer_column == "answer" else None}
        metadata = _metadata(row, rules, used=used)
        check_unicode(metadata, "metadata")
        label = _label(row) if rules.labelled else ""
        check_unicode(label, SOURCE_COLUMN)
        digest = prompt_key(prompt)
        key = own_id or _numbered(row, rules, digest)
    except UnusableRowError as problem:
        reason, message = problem.args
        # The names of a row's columns may hold what no file can, too.
        return BadRow(reason=reason, message=message.encode("utf-8", "backslashreplace").decode("utf-8"))
    if length < rules.min_chars:
        return FilteredRow(reason="too_short")
    if rules.max_chars is not None and length > rules.max_chars:
        return FilteredRow(reason="too_long")
    return NormalRow(
        key=key,
        identity=own_id or digest,
        has_id=own_id is not None,
        prompt=prompt,
        answer=answer,
        metadata=metadata,
        label=label,
    )


def prompt_chars(prompt: str | Messages) -> int:
    """Length in characters: of the text, or of all messages' contents."""
    if isinstance(prompt, str):
        return len(prompt)
    return sum(len(message["content"]) for message in prompt)


def key_hash(key: str) -> int:
    """64-bit hash of a key, for finding duplicates and for the held-out split; the same on every machine."""
    return xxhash.xxh3_64_intdigest(key.encode("utf-8"))


def _prompt(row: Mapping[str, Any], rules: RowRules) -> tuple[str | Messages, str | None, str | None]:
    """The prompt, the assistant's reply behind it, and the one column it stands in; None for what there is not."""
    where: str | None
    if rules.template is None:
        name = first_with_value(row, rules.prompts) or rules.prompts[0]
        value = column(row, name, looked_for=rules.prompts)
        found = messages_in(value)
        if found is not None:
            messages, reply = read_messages(found, name)
            return _with_system_prompt(messages, rules), reply, name
        text, where = text_of(value, name), name
    else:
        fields = {name: _scalar(column(row, name), name) for name in rules.template_fields}
        text, name, where = rules.template.format_map(fields), rules.template_fields[0], None
    if not text.strip():
        raise UnusableRowError("empty_prompt", f"column '{name}': the prompt is empty")
    check_unicode(text, name)
    text += rules.instruction
    return (_with_system_prompt([{"role": "user", "content": text}], rules) if rules.chat else text), None, where


def _with_system_prompt(messages: Messages, rules: RowRules) -> Messages:
    if rules.system_prompt is None or messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": rules.system_prompt}, *messages]


def _own_id(row: Mapping[str, Any], rules: RowRules) -> str | None:
    name = rules.prompt_id
    if name is None or (look_up(row, name) is MISSING and not rules.needs_id):
        return None
    value = column(row, name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise UnusableRowError("bad_id", f"column '{name}' must be a text or a whole number, not {kind_of(value)}")
    check_unicode(str(value), name)
    return str(value)


def _numbered(row: Mapping[str, Any], rules: RowRules, digest: str) -> str:
    """The key of a prompt without an id: its digest, behind the row's number where there is one.

    Numbers come again in every file and split; with the digest a key is of one prompt whatever they are.
    """
    for name in rules.row_numbers:
        value = look_up(row, name)
        if isinstance(value, str | int) and not isinstance(value, bool) and 0 < len(str(value)) <= 64:
            check_unicode(str(value), name)
            return f"{value}#{digest[:_DIGEST_IN_KEY]}"
    return digest


def _label(row: Mapping[str, Any]) -> str:
    value = row.get(SOURCE_COLUMN)
    return value.strip() if isinstance(value, str) else ""


def _metadata(row: Mapping[str, Any], rules: RowRules, *, used: set[str | None]) -> str:
    """The other columns. One the answer was found in stays, but for ``answer``: rewards may ask for it by its name."""
    if rules.metadata is None:
        kept = {str(name): value for name, value in row.items() if name not in used}
    else:
        kept = {name: column(row, name) for name in rules.metadata}
    return json.dumps(kept, ensure_ascii=False, default=as_text)


def _scalar(value: object, name: str) -> str:
    """A text or number put into a prompt template."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return text_of(value, name)
