"""The ``arithmetic`` reward: the embedded task's own check of an answer."""

from __future__ import annotations

from collections.abc import Sequence

from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.tasks.arithmetic.problems import is_correct


class ArithmeticReward:
    """1.0 if the completion's one answer equals the row's as a rational number, else 0.0."""

    batched = False

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [float(is_correct(item.completion, item.answer)) for item in inputs]
