"""The ``arithmetic`` reward: the embedded task's own check of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bolt_ray.core.settings import setting
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.settings import RewardSettings
from bolt_ray.tasks.arithmetic.problems import ANSWER_CLOSE, ANSWER_OPEN, is_correct, right_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class ArithmeticRewardSettings(RewardSettings):
    """``type: arithmetic`` - the embedded arithmetic task's own check."""

    shares_process = True
    always_within = (0.0, 1.0)

    partial: float = setting(
        0.0,
        "most that a wrong answer earns for right steps: times the share of the prompt's operations that the "
        "scratchpad carries out before its first mistake",
        ge=0,
        lt=1,
    )

    def right_completion(self, item: RewardInput) -> str | None:
        return f"{ANSWER_OPEN}{item.answer}{ANSWER_CLOSE}"


class ArithmeticReward:
    """1.0 if the completion's one answer is the row's as a rational number, else 0.0 or ``partial`` of its steps."""

    settings = ArithmeticRewardSettings
    batched = False

    def __init__(self, settings: ArithmeticRewardSettings) -> None:
        self._partial = settings.partial

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [self._score_one(item) for item in inputs]

    def _score_one(self, item: RewardInput) -> float:
        if is_correct(item.completion, item.answer):
            return 1.0
        return self._partial * right_steps(str(item.prompt), item.completion) if self._partial else 0.0
