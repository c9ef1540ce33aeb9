"""Chat messages of a row: checked, their text parts joined, a closing reply of the assistant taken off."""

from __future__ import annotations

from typing import Any

from bolt_ray.core.records import Messages
from bolt_ray.data.ingest.columns import UnusableRowError, check_unicode, json_value, kind_of, text_of


def messages_in(value: object) -> list[Any] | None:
    """The list of a prompt that is chat messages, also where a cell has it as JSON text; None for a text prompt."""
    if isinstance(value, list):
        return value
    parsed = json_value(value)
    if isinstance(parsed, list) and parsed and all(_is_message(message) for message in parsed):
        return parsed
    return None


def read_messages(value: list[Any], name: str) -> tuple[Messages, str | None]:
    """The messages of a prompt, and the assistant's reply that closes them: the reference, no part of the prompt.

    Args:
        value: what column ``name`` holds.

    Raises:
        UnusableRowError: a message is none, has other than text in it, or nothing is asked.
    """
    messages: Messages = []
    for number, message in enumerate(value, start=1):
        if not _is_message(message):
            raise UnusableRowError(
                "wrong_type", f"column '{name}': message {number} is not {{role, content}} but {kind_of(message)}"
            )
        content = _content(message["content"], f"{name}[{number}].content")
        check_unicode(content, name)
        messages.append({"role": text_of(message["role"], f"{name}[{number}].role"), "content": content})
    reply = messages.pop()["content"] if messages and messages[-1]["role"] == "assistant" else None
    if not any(message["content"].strip() for message in messages):
        what = "the messages are empty" if reply is None else "nothing stands before the assistant's reply"
        raise UnusableRowError("empty_prompt", f"column '{name}': {what}")
    return messages, reply


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and {"role", "content"} <= value.keys()


def _content(value: object, place: str) -> str:
    """A message's text; a list of text parts (``[{"type": "text", "text": "…"}]``) is joined."""
    if not isinstance(value, list):
        return text_of(value, place)
    texts = []
    for number, part in enumerate(value, start=1):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            what = f"of type {kind!r}" if kind is not None else kind_of(part)
            raise UnusableRowError("not_text", f"'{place}[{number}]' is a part {what}: prompts are text alone")
        texts.append(text_of(part.get("text"), f"{place}[{number}].text"))
    return "".join(texts)
