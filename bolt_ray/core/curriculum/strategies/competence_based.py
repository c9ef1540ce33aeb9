"""Prompts at a frontier that moves from easy to hard."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.binning import bin_weights
from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import MemorylessStrategy
from bolt_ray.core.records import PromptColumns


class CompetenceBased(MemorylessStrategy):
    """Quantile bins of v_hat, bin i drawn with p_i ~ exp(-(i - c)^2 / 2) (after Platanios et al. 2019).

    The center c moves from the easiest bin to the hardest over the run and stands half-way through it at the
    bin where v_hat passes ``target``; see `bolt_ray.core.curriculum.binning.bin_probabilities`.
    """

    def __init__(self, settings: CurriculumSettings) -> None:
        self.num_bins = settings.num_bins
        self.temperature = settings.temperature
        self.target = settings.target

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float64 ``[n]``, mean 1."""
        return bin_weights(
            columns.v_hat,
            "competence_based",
            self.num_bins,
            step=step,
            total_steps=total_steps,
            temperature=self.temperature,
            competence_threshold=self.target,
        )
