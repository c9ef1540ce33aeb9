"""The ``arithmetic`` reward: the embedded task's own check of an answer."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import cast

from bolt_ray.rewards.protocol import RewardInput


class ArithmeticReward:
    """Scores a completion with ``bolt_ray.tasks.arithmetic.problems.reward(text, answer)``.

    Tasks and rewards are layers side by side, so the task is found by name when the reward is built.
    """

    batched = False

    def __init__(self) -> None:
        problems = importlib.import_module("bolt_ray.tasks.arithmetic.problems")
        self._check = cast("Callable[[str, str], float]", problems.reward)

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [self._check(item.completion, item.answer) for item in inputs]
