"""Thompson sampling of the success rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import MIN_N_EFF, MemorylessStrategy
from bolt_ray.core.records import PromptColumns

PREFERRED_SHARE = 0.1
"""Share of the prompts over which the weight falls by a factor e, nearest first."""


class Thompson(MemorylessStrategy):
    """Draw theta ~ Beta(alpha, beta) per prompt; prefer the smallest (theta - target)^2 (MoPPS, 2507.04632).

    MoPPS draws candidates uniformly and keeps the best of them, so what counts is a prompt's rank among all,
    not its distance. One weighted draw does both: w = exp(-q / 0.1), where q in [0, 1) is the share of the
    prompts that are nearer to the target (exponential ranking). The nearest tenth of the prompts gets 63 % of
    the first draw, the nearest third 96 %; the farthest keeps e^-10 of the nearest one's weight, and a new
    theta at every refresh moves the ranks, so no prompt is shut out. Equal distances share their mean rank:
    the row number decides nothing. Costs one Beta draw per prompt and one sort.
    """

    def __init__(self, settings: CurriculumSettings) -> None:
        self.target = settings.target

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float64 ``[n]`` in (0, 1], falling with the rank of (theta - target)^2."""
        alpha = np.maximum(columns.alpha, MIN_N_EFF).astype(np.float64)
        beta = np.maximum(columns.beta, MIN_N_EFF).astype(np.float64)
        theta = rng.beta(alpha, beta)
        rank = _mean_ranks((theta - self.target) ** 2)
        return np.exp(-rank / (PREFERRED_SHARE * max(1, rank.size)))


def _mean_ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[n]``: ascending ranks from 0; equal values get the mean of the ranks they take up."""
    order = np.argsort(values)
    ascending = values[order]
    starts = np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]])[: values.size])
    lengths = np.diff(np.append(starts, values.size))
    ranks = np.empty(values.size, dtype=np.float64)
    ranks[order] = np.repeat(starts + (lengths - 1) / 2.0, lengths)
    return ranks
