"""The ``arithmetic`` reward: the embedded task's own check of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.settings import RewardSettings
from bolt_ray.tasks.arithmetic.problems import is_correct


@dataclass(frozen=True, slots=True, kw_only=True)
class ArithmeticRewardSettings(RewardSettings):
    """``type: arithmetic`` - the embedded arithmetic task's own check."""

    shares_process = True
    always_within = (0.0, 1.0)


class ArithmeticReward:
    """1.0 if the completion's one answer equals the row's as a rational number, else 0.0."""

    settings = ArithmeticRewardSettings
    batched = False

    def __init__(self, settings: ArithmeticRewardSettings) -> None:
        """There is nothing to set."""

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [float(is_correct(item.completion, item.answer)) for item in inputs]
