"""Comparing two models on the same prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

_CELLS_PER_CHUNK = 4_000_000
"""Resampled indices held at once (32 MB), whatever the number of prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """Model B against model A.

    Attributes:
        mean_a, mean_b: mean score over prompts.
        difference: mean_b − mean_a.
        low, high: percentile bootstrap interval of the difference.
        p_value: two-sided; how often a difference at least as large arises if there is none, at least
            1/(resamples + 1).
        num_prompts: prompts compared.
    """

    mean_a: float
    mean_b: float
    difference: float
    low: float
    high: float
    p_value: float
    num_prompts: int

    @property
    def significant(self) -> bool:
        """True if the interval excludes 0."""
        return self.low > 0.0 or self.high < 0.0


def paired_bootstrap(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    *,
    seed: int,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> PairedComparison:
    """Resample prompts, both models' scores together (Efron & Tibshirani 1993, ch. 16).

    Prompts differ in difficulty far more than two models do, so pairing narrows the interval. The p-value
    comes from the differences shifted to mean 0.

    Args:
        scores_a, scores_b: float [prompts], each prompt's mean score, same order.
        seed: of the resampling; the same seed gives the same result.

    Raises:
        ValueError: no prompts, different lengths, a non-finite score, or settings out of range.
    """
    a, b = np.asarray(scores_a, dtype=np.float64), np.asarray(scores_b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(f"two score lists of the same prompts are needed, got shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("scores must be finite; leave out prompts that one of the models has no score for")
    if num_resamples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"num_resamples must be at least 1 and confidence in (0, 1), got {num_resamples} and {confidence}"
        )
    paired = b - a
    observed = float(paired.mean())
    means = _resampled_means(paired, num_resamples, np.random.default_rng(seed))
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(means, [tail, 1.0 - tail])
    # The slack keeps rounding from deciding whether a resampled mean equals the observed one.
    extreme = int(np.count_nonzero(np.abs(means - observed) >= abs(observed) - 1e-12))
    return PairedComparison(
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=observed,
        low=float(low),
        high=float(high),
        p_value=(extreme + 1) / (num_resamples + 1),
        num_prompts=int(a.size),
    )


def _resampled_means(
    values: NDArray[np.float64], num_resamples: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    rows = max(1, _CELLS_PER_CHUNK // values.size)
    chunks = []
    for start in range(0, num_resamples, rows):
        count = min(rows, num_resamples - start)
        picks = generator.integers(0, values.size, size=(count, values.size))
        chunks.append(values[picks].mean(axis=1))
    return np.concatenate(chunks)
