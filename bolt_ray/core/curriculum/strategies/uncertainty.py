"""Prefers prompts whose success rate is near 0.5."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.binning import MIN_PROBABILITY
from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import MIN_N_EFF, MemorylessStrategy
from bolt_ray.core.records import PromptColumns


def outcome_std(v_hat: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """float64 ``[n]``: sqrt(v (1 - v)), the standard deviation of a 0/1 outcome, v clipped to [0, 1]."""
    v = np.clip(v_hat, 0.0, 1.0).astype(np.float64)
    return np.sqrt(v * (1.0 - v))


class Uncertainty(MemorylessStrategy):
    """w = sqrt(v (1 - v)) / N_eff^gamma + epsilon (BOLT)."""

    def __init__(self, settings: CurriculumSettings) -> None:
        self.epsilon = settings.epsilon
        self.gamma = settings.gamma

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float64 ``[n]``: the outcome's spread, less with much evidence if gamma > 0."""
        weights = outcome_std(columns.v_hat)
        if self.gamma > 0.0:
            weights /= np.maximum(columns.n_eff, MIN_N_EFF).astype(np.float64) ** self.gamma
        # With epsilon 0 a prompt solved for good would otherwise never be drawn again.
        return np.maximum(weights + self.epsilon, MIN_PROBABILITY)
