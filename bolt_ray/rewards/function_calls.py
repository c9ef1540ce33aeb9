"""How a user's function is called: the arguments its library would give it, and how what it returns is read. Pure.

The contracts are those of TRL's ``GRPOTrainer`` (2026-07), verl's reward manager, which calls ``compute_score`` with
keywords, and OpenRLHF's ``reward_func``, which is called with lists of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from bolt_ray.rewards.protocol import NOT_APPLICABLE, Noted, RewardInput, Unscored

ANSWER_COLUMNS = ("answer", "ground_truth", "solution", "label", "labels")
"""Columns that people keep the reference in. The dataset's answer stands for those that a row lacks: the column it was
read from is no longer among the others."""

_NO_COLUMNS = ("prompt", "completion", "completion_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of a user's function: its arguments, and how one value per completion is read of what it returns."""

    arguments: tuple[Any, ...] = ()
    named: Mapping[str, Any]
    read: Callable[[object], list[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a function takes by name."""

    names: frozenset[str]
    required: frozenset[str]
    any_name: bool

    def taken(self, offered: Mapping[str, Any]) -> dict[str, Any]:
        """Those of ``offered`` that the function takes."""
        return {name: value for name, value in offered.items() if self.any_name or name in self.names}


class TrainerState:
    """What there is of TRL's ``trainer_state`` in a reward process: the updates done so far."""

    def __init__(self, global_step: int) -> None:
        self.global_step = global_step

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"trainer_state has global_step here, and no {name}")


def plain_number(value: object) -> object:
    """A number of numpy or torch, or an array of one, as Python's own; anything else as it is."""
    item = getattr(value, "item", None)
    if isinstance(value, Real) or not callable(item):
        return value
    return item() if math.prod(getattr(value, "shape", (0,))) == 1 else value


def as_list(value: object) -> list[object]:
    """What a function returned for several completions as a list; text and single numbers are not lists.

    Raises:
        TypeError: it is not a list of numbers.
    """
    if hasattr(value, "tolist") and hasattr(value, "reshape"):
        return list(value.reshape(-1).tolist())
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise TypeError(f"returned {type(value).__name__}, expected a list with one number per completion")
    return [plain_number(each) for each in value]


def call_own(inputs: Sequence[RewardInput], parameters: Parameters, options: Mapping[str, Any]) -> Call:
    return Call(arguments=(inputs[0],), named=options, read=lambda value: [plain_number(value)])


def call_own_batch(inputs: Sequence[RewardInput], parameters: Parameters, options: Mapping[str, Any]) -> Call:
    return Call(arguments=(list(inputs),), named=options, read=as_list)


def call_trl(inputs: Sequence[RewardInput], parameters: Parameters, options: Mapping[str, Any]) -> Call:
    metrics: dict[str, object] = {}
    extras: list[dict[str, object]] = [{} for _ in inputs]

    def log_metric(name: str, value: object) -> None:
        metrics[name] = plain_number(value)

    def log_extra(column: str, values: Sequence[object]) -> None:
        if len(values) != len(inputs):
            raise ValueError(f"log_extra({column!r}) got {len(values)} values for {len(inputs)} completions")
        for row, value in zip(extras, values, strict=True):
            row[column] = plain_number(value)

    def read(returned: object) -> list[object]:
        values = as_list(returned)
        if len(values) != len(inputs) or not (metrics or any(extras)):
            return [_unless_none(value) for value in values]
        return [
            _unless_none(value, Noted(value=value, metrics=metrics, extras=row))
            for value, row in zip(values, extras, strict=True)
        ]

    offered = {
        **_columns(inputs),
        "prompts": [item.prompt for item in inputs],
        "completions": [
            item.completion if isinstance(item.prompt, str) else [{"role": "assistant", "content": item.completion}]
            for item in inputs
        ],
        "completion_ids": [list(item.token_ids) for item in inputs],
        "trainer_state": TrainerState(max((item.policy_version for item in inputs), default=0)),
        "log_extra": log_extra,
        "log_metric": log_metric,
        **options,
    }
    missing = sorted(parameters.required - set(offered))
    if missing:
        raise TypeError(f"it asks for the column {missing[0]!r}, which no row here has; set it in `options`, or rename")
    return Call(named=parameters.taken(offered), read=read)


def _unless_none(value: object, noted: Noted | None = None) -> object:
    """TRL leaves a function out of a completion's sum where it returns None."""
    return Unscored(NOT_APPLICABLE, "returned None") if value is None else noted or value


def _columns(inputs: Sequence[RewardInput]) -> dict[str, list[Any]]:
    """The rows' columns as lists, None where a row lacks one that others have."""
    names = dict.fromkeys(name for item in inputs for name in item.metadata)
    columns = {name: [item.metadata.get(name) for item in inputs] for name in names if name not in _NO_COLUMNS}
    answers = {name: [_given(item.metadata.get(name), item.answer) for item in inputs] for name in ANSWER_COLUMNS}
    return columns | answers


def _given(value: object, answer: str) -> object:
    return answer if value is None else value


def call_verl(inputs: Sequence[RewardInput], parameters: Parameters, options: Mapping[str, Any]) -> Call:
    (item,) = inputs
    model, extra = item.metadata.get("reward_model"), item.metadata.get("extra_info")
    offered = {
        "data_source": item.metadata.get("data_source", item.source),
        "solution_str": item.completion,
        "ground_truth": model["ground_truth"]
        if isinstance(model, Mapping) and "ground_truth" in model
        else item.answer,
        "extra_info": dict(extra if isinstance(extra, Mapping) else item.metadata),
        **options,
    }
    return Call(named=parameters.taken(offered), read=_read_verl)


def _read_verl(returned: object) -> list[object]:
    if not isinstance(returned, Mapping):
        return [plain_number(returned)]
    if "score" not in returned:
        raise TypeError(f"returned a mapping without 'score': {', '.join(map(str, returned))}")
    return [_noted(returned["score"], {name: value for name, value in returned.items() if name != "score"})]


def call_openrlhf(inputs: Sequence[RewardInput], parameters: Parameters, options: Mapping[str, Any]) -> Call:
    (item,) = inputs
    prompt = _text_of(item.prompt)
    label = next((item.metadata[name] for name in ("label", "labels") if name in item.metadata), item.answer)
    offered = {"queries": [prompt + item.completion], "prompts": [prompt], "labels": [label], **options}
    return Call(named=parameters.taken(offered), read=_read_openrlhf)


def _read_openrlhf(returned: object) -> list[object]:
    if not isinstance(returned, Mapping):
        return as_list(returned)
    if "rewards" not in returned:
        raise TypeError(f"returned a mapping without 'rewards': {', '.join(map(str, returned))}")
    logs = returned.get("extra_logs") or {}
    notes = {"scores": returned["scores"], **logs} if returned.get("scores") is not None else logs
    return [_noted(_only(returned["rewards"]), {name: _only(value) for name, value in notes.items()})]


def _only(value: object) -> object:
    """The one element of a list of one."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _noted(value: object, beside: Mapping[str, object]) -> Noted:
    """The value with what stands beside it: numbers as metrics, all else as extras."""
    plain = {name: plain_number(each) for name, each in beside.items()}
    metrics = {name: each for name, each in plain.items() if isinstance(each, Real)}
    return Noted(
        value=plain_number(value),
        metrics=metrics,
        extras={name: each for name, each in plain.items() if name not in metrics},
    )


def _text_of(prompt: str | list[dict[str, str]]) -> str:
    """A prompt as text; of a chat what was said, a line each."""
    return prompt if isinstance(prompt, str) else "".join(f"{message['content']}\n" for message in prompt)
