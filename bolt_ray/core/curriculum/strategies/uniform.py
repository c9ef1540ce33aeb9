"""The same weight for every prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import MemorylessStrategy
from bolt_ray.core.records import PromptColumns


class Uniform(MemorylessStrategy):
    """w = 1."""

    def __init__(self, settings: CurriculumSettings) -> None:
        pass

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float64 ``[n]`` of ones."""
        return np.ones(columns.num_prompts)
