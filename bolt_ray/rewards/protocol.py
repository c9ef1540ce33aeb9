"""The input of a reward, its verdict, and the protocol every reward implements.

A reward is a small class in a file of its own, or a user's function. It runs in a separate process (see
``process/isolation.py``), never in the process that trains.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Protocol

from bolt_ray.rewards.settings import RewardSettings

DETAIL_CHARS = 300
MAX_NOTES = 32
"""Metrics, and extras, that are kept of one verdict."""
NOTE_CHARS = 2000
"""Of one extra."""

NOT_APPLICABLE = "not_applicable"
"""Kind of `Unscored`: the reward is not meant for this completion, whose sum goes without its part. A completion that
every reward says this of is unscored."""


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
        token_ids: the completion's tokens, with the end-of-sequence token; () where no user's function is asked.
        policy_version: updates of the policy that wrote the last of them.
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
    token_ids: tuple[int, ...] = ()
    policy_version: int = 0
    evaluation: bool = False
    prefill: str = ""

    def to_dict(self, *, token_ids: bool = False) -> dict[str, Any]:
        """The fields by name, not copied; without the token ids unless they are asked for."""
        return {
            field.name: getattr(self, field.name) for field in fields(self) if token_ids or field.name != "token_ids"
        }


@dataclass(frozen=True, slots=True)
class Unscored:
    """No verdict on a completion, and why. Never the same as a reward of 0.

    Attributes:
        kind: a word for counting: "exception", "timeout", "crash", "not_finite", "wrong_type", "wrong_count",
            "no_verdict", NOT_APPLICABLE, or a reward's own.
        detail: one line for the user.
    """

    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted:
    """A number with what the reward says beside it.

    Attributes:
        value: the number.
        metrics: further numbers, averaged over the step as ``reward/metric/<name>``.
        extras: anything else about this completion, as JSON values.
    """

    value: Any
    metrics: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)


Verdict = float | Noted | Unscored


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
    """What a reward returned for one completion, checked: a finite float, or the reason there is none.

    Metrics that are no finite numbers are left out, and extras are cut: what is said beside a verdict never costs it.
    """
    if isinstance(value, Noted):
        verdict = verdict_of(value.value)
        metrics = {_note_name(name): verdict_of(number) for name, number in _first(value.metrics)}
        return (
            verdict
            if isinstance(verdict, Unscored)
            else Noted(
                value=verdict,
                metrics={name: number for name, number in metrics.items() if isinstance(number, float)},
                extras={_note_name(name): _bounded(extra) for name, extra in _first(value.extras)},
            )
        )
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


def _first(notes: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(notes.items())[:MAX_NOTES]


def _note_name(name: object) -> str:
    return re.sub(r"[^\w.@/\-]+", "_", str(name))[:64]


def _bounded(value: object) -> object:
    """A JSON value of at most ``NOTE_CHARS``, or the beginning of its text."""
    try:
        text = value if isinstance(value, str) else json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        text = value = str(value)
    if len(text) > NOTE_CHARS:
        return text[:NOTE_CHARS]
    # NaN and infinity, which JSON has no numbers for, become text.
    return value if isinstance(value, str) else json.loads(text, parse_constant=str)
