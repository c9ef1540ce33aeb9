"""Easy prompts first, uniform at the end of the run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.binning import bin_weights
from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import MemorylessStrategy
from bolt_ray.core.records import PromptColumns


class EasyFirst(MemorylessStrategy):
    """Quantile bins of v_hat, bin i drawn with p_i ~ (1 - t) exp(-2 i / max(1, n - 1)) + t / n."""

    def __init__(self, settings: CurriculumSettings) -> None:
        self.num_bins = settings.num_bins
        self.temperature = settings.temperature

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float64 ``[n]``, mean 1."""
        return bin_weights(
            columns.v_hat,
            "easy_first",
            self.num_bins,
            step=step,
            total_steps=total_steps,
            temperature=self.temperature,
        )
