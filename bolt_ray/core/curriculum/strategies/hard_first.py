"""Hard prompts more often, the same through the whole run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import MemorylessStrategy
from bolt_ray.core.records import PromptColumns


class HardFirst(MemorylessStrategy):
    """w = 1 - v + epsilon."""

    def __init__(self, settings: CurriculumSettings) -> None:
        self.epsilon = max(settings.epsilon, 1e-6)

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float64 ``[n]``: the share of failures."""
        return 1.0 - np.clip(columns.v_hat, 0.0, 1.0).astype(np.float64) + self.epsilon
