"""The ``format`` reward: JSON, JSON Schema, XML tags, think/answer structure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jsonschema

from bolt_ray.rewards.protocol import RewardInput

Structure = Literal["json", "json_schema", "xml", "think_answer"]

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)
_THINK_ANSWER = ("think", "answer")


class FormatReward:
    """1.0 if the completion has the structure, else 0.0; with ``partial`` the share of what is right.

    Args:
        structure: ``json``: it is one JSON object or list (bare, or in one fenced block); ``json_schema``: that
            fits ``json_schema``; ``xml``: each of ``tags`` opened and closed once, in this order, other text
            between them allowed; ``think_answer``: ``<think>…</think><answer>…</answer>`` with something in
            both and nothing but white space around them.
        json_schema: a JSON Schema.
        tags: tag names.
        partial: for ``xml`` and ``think_answer``.

    Raises:
        ValueError: ``json_schema`` is not a schema.
    """

    batched = False

    def __init__(
        self,
        *,
        structure: Structure = "think_answer",
        json_schema: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        partial: bool = False,
    ) -> None:
        self._structure = structure
        self._tags = tuple(tags)
        self._partial = partial
        self._validator: jsonschema.protocols.Validator | None = None
        if structure == "json_schema":
            schema = dict(json_schema or {})
            kind = jsonschema.validators.validator_for(schema)
            try:
                kind.check_schema(schema)
            except jsonschema.SchemaError as problem:
                raise ValueError(f"`json_schema` is not a JSON Schema: {problem.message}") from problem
            self._validator = kind(schema)

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [self._score_one(item.completion) for item in inputs]

    def _score_one(self, text: str) -> float:
        if self._structure in ("json", "json_schema"):
            return float(self._is_json(text))
        share = think_answer_share(text) if self._structure == "think_answer" else tags_share(text, self._tags)
        return share if self._partial else float(share == 1.0)

    def _is_json(self, text: str) -> bool:
        fenced = _FENCE.match(text)
        try:
            value = json.loads(fenced.group(1) if fenced else text)
        except (ValueError, RecursionError):
            return False
        if self._validator is None:
            return isinstance(value, dict | list)
        return bool(self._validator.is_valid(value))


def tags_share(text: str, tags: Sequence[str]) -> float:
    """Share of ``tags`` that are opened and closed exactly once, in the given order."""
    right, position = 0, 0
    for tag in tags:
        opened, closed = f"<{tag}>", f"</{tag}>"
        start = text.find(opened, position)
        end = text.find(closed, start + len(opened)) if start >= 0 else -1
        if end >= 0 and text.count(opened) == 1 and text.count(closed) == 1:
            right += 1
            position = end + len(closed)
    return right / len(tags)


def think_answer_share(text: str) -> float:
    """Share of: a think block, an answer block, in order, none of them empty, nothing outside them."""
    blocks = [re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in _THINK_ANSWER]
    whole = re.fullmatch(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", text, re.DOTALL)
    alone = whole is not None and not any(re.search(r"</?(?:think|answer)>", part) for part in whole.groups())
    checks = [
        tags_share(text, _THINK_ANSWER[:1]) == 1.0,
        tags_share(text, _THINK_ANSWER[1:]) == 1.0,
        all(found and found[0].strip() for found in blocks),
        alone,
    ]
    return sum(checks) / len(checks)
