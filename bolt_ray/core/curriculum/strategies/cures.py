"""Prefer prompts whose gradient is expected to be large."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import MemorylessStrategy
from bolt_ray.core.curriculum.strategies.uncertainty import outcome_std
from bolt_ray.core.records import PromptColumns


class Cures(MemorylessStrategy):
    """w = exp(sqrt(v (1 - v)) / temperature) (CurES, arXiv 2510.01037).

    Its second half, more completions for the more uncertain prompts, is
    `bolt_ray.core.curriculum.modifiers.allocate_rollouts`.
    """

    def __init__(self, settings: CurriculumSettings) -> None:
        self.temperature = settings.temperature

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float64 ``[n]`` in [1, exp(0.5 / temperature)]."""
        return np.exp(outcome_std(columns.v_hat) / self.temperature)
