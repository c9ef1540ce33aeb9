"""The ``format`` reward: JSON, JSON Schema, XML tags, think/answer structure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jsonschema

from bolt_ray.core.settings import SettingError, setting
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.settings import RewardSettings

_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)
_THINK_ANSWER = ("think", "answer")
_TAG = re.compile(r"^[A-Za-z_][\w.\-]*$")
_OPENED = re.compile(r"\A(?:<[A-Za-z_][\w.\-]*>\s*)+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatSettings(RewardSettings):
    """``type: format`` - whether the completion has the wanted structure."""

    shares_process = True
    always_within = (0.0, 1.0)

    structure: Literal["json", "json_schema", "xml", "think_answer"] = setting(
        "think_answer",
        "json: one JSON object or list, bare or in one fenced block; json_schema: that fits json_schema; xml: each of "
        "tags opened and closed once, in this order; think_answer: <think>…</think><answer>…</answer>, neither empty, "
        "with only white space around them. What the prompt opened of the answer counts as written",
    )
    json_schema: dict[str, Any] | None = setting(None, "with structure json_schema: a JSON Schema")
    tags: tuple[str, ...] = setting((), "with structure xml: names of the tags")
    partial: bool = setting(False, "xml and think_answer: the share of what is right instead of 0")

    def __post_init__(self) -> None:
        RewardSettings.__post_init__(self)
        if (self.structure == "json_schema") != (self.json_schema is not None):
            raise SettingError("json_schema", "is needed with structure json_schema, and only there")
        if self.json_schema is not None:
            _validator_of(self.json_schema)
        if (self.structure == "xml") != bool(self.tags):
            raise SettingError("tags", "are needed with structure xml, and only there")
        if not all(_TAG.match(tag) for tag in self.tags):
            raise SettingError("tags", f"{list(self.tags)} are not all names, as think or final_answer")
        if len(set(self.tags)) != len(self.tags):
            raise SettingError("tags", "must differ from each other")


def _validator_of(schema: Mapping[str, Any]) -> jsonschema.protocols.Validator:
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(dict(schema))
    except jsonschema.SchemaError as problem:
        raise SettingError("json_schema", f"is not a JSON Schema: {problem.message}") from problem
    return kind(dict(schema))


class FormatReward:
    """1.0 if the completion has the structure, else 0.0; with ``partial`` the share of what is right."""

    settings = FormatSettings
    batched = False

    def __init__(self, settings: FormatSettings) -> None:
        self._structure = settings.structure
        self._tags = tuple(settings.tags)
        self._partial = settings.partial
        schema = settings.json_schema
        self._validator = None if schema is None else _validator_of(schema)

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [self._score_one(self._opened(item.prefill) + item.completion) for item in inputs]

    def _opened(self, prefill: str) -> str:
        """What of the answer's beginning in the prompt belongs to the structure."""
        if self._structure == "xml":
            return prefill
        if self._structure == "think_answer":
            return prefill[prefill.find("<think>") :] if "<think>" in prefill else ""
        return _OPENED.sub("", prefill)

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
