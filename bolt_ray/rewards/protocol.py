"""The input of a reward, its verdict, and the protocol every reward implements.

A reward is a small class in a file of its own, or a user's function. It runs in a separate process (see
``process/isolation.py``), never in the process that trains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Protocol

from bolt_ray.rewards.settings import RewardSettings

DETAIL_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardInput:
    """One completion to be scored.

    Attributes:
        prompt: the prompt as the dataset has it: plain text or chat messages.
        completion: the model's answer as text, special tokens left out.
        prefill: what of the answer stands in the prompt already, before ``completion``: the prefill, and tags that the
            chat template or the prompt leaves open at its end, such as ``<think>``.
        answer: the dataset's reference answer; "" if it has none.
        metadata: the row's other columns, as JSON values (numbers, text, lists, mappings).
        source: the row's ``data_source``, else the name of its dataset.
        dataset: name of the dataset's entry; "" where that is ``source``.
        truncated: True if the length limit cut the completion off.
        num_tokens: tokens in the completion, the end-of-sequence token counted.
        evaluation: True for a held-out problem.
    """

    prompt: str | list[dict[str, str]]
    completion: str
    answer: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    dataset: str = ""
    truncated: bool = False
    num_tokens: int = 0
    evaluation: bool = False
    prefill: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, not copied."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, slots=True)
class Unscored:
    """No verdict on a completion, and why. Never the same as a reward of 0.

    Attributes:
        kind: a word for counting: "exception", "timeout", "crash", "not_finite", "wrong_type", "wrong_count",
            "no_verdict", or a reward's own.
        detail: one line for the user.
    """

    kind: str
    detail: str = ""


Verdict = float | Unscored


class Reward(Protocol):
    """What every reward does.

    Attributes:
        batched: False: ``score`` is called with one completion at a time, so a failure names its completion.
            True: it is called with the whole batch; after a failure the batch is halved until the
            failing completion is alone.
    """

    @property
    def batched(self) -> bool: ...

    def score(self, inputs: Sequence[RewardInput]) -> Sequence[object]:
        """One number per completion, in order; ``None`` or :class:`Unscored` for no verdict."""
        ...


class RewardClass(Protocol):
    """A reward's class, as the registry names it.

    Attributes:
        settings: the record of its settings; the class is called with one.
    """

    settings: type[RewardSettings]

    def __call__(self, settings: Any, /) -> Reward: ...


def verdict_of(value: object) -> Verdict:
    """What a reward returned for one completion, checked: a finite float, or the reason there is none."""
    if isinstance(value, Unscored):
        return Unscored(value.kind, value.detail[:DETAIL_CHARS])
    if value is None:
        return Unscored("no_verdict", "returned None")
    if not isinstance(value, Real):
        return Unscored("wrong_type", f"returned {type(value).__name__}, expected a number")
    try:
        number = float(value)
    except OverflowError:
        return Unscored("not_finite", "returned a number too large for a float")
    if not math.isfinite(number):
        return Unscored("not_finite", f"returned {number}")
    return number
