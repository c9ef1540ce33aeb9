"""The arithmetic of difficulty bins: where they are cut, which items they hold, how often each is sampled.

A score is a success rate or a reward, high = easy; bin 0 is the easiest. ``boundaries[i]`` is the lowest
score of bin i, descending: an item is in the first bin whose boundary its score reaches, else in the last.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BIN_STRATEGIES = ("uniform", "easy_first", "competence_based")
MIN_TEMPERATURE = 0.01
MIN_PROBABILITY = 1e-10


def quantile_boundaries(scores: NDArray[np.floating[Any]], n_bins: int) -> NDArray[np.float64]:
    """float64 ``[n_bins]``: boundary_i = s_desc[ceil((i + 1) * n / n_bins) - 1], bins of equal size.

    Args:
        scores: ``[n]``, n >= 1, in any order.
        n_bins: number of bins, at least 1.
    """
    num_items = scores.shape[0]
    last = np.array([-(-(i + 1) * num_items // n_bins) - 1 for i in range(n_bins)])
    ascending = num_items - 1 - last
    boundaries: NDArray[np.float64] = np.partition(scores, np.unique(ascending))[ascending].astype(np.float64)
    return boundaries


def compatible_boundaries(scores: NDArray[np.floating[Any]], n_bins: int) -> NDArray[np.float64]:
    """float64 ``[n_bins]``: boundary_i = s_desc[int(i * n / n_bins)], as earlier systems cut their bins.

    It leaves bin 0 only the maximum: 100 distinct scores in 5 bins give 1, 20, 20, 20, 39 items. Fewer scores
    than bins are cut at equal distances, max - i * (max - min) / n_bins. Arguments as `quantile_boundaries`.
    """
    num_items = scores.shape[0]
    if num_items < n_bins:
        top, bottom = float(scores.max()), float(scores.min())
        return top - np.arange(n_bins) * (top - bottom) / n_bins
    ascending = num_items - 1 - np.array([i * num_items // n_bins for i in range(n_bins)])
    boundaries: NDArray[np.float64] = np.partition(scores, np.unique(ascending))[ascending].astype(np.float64)
    return boundaries


def cut_bins(scores: NDArray[np.floating[Any]], n_bins: int, binning: str) -> NDArray[np.float64]:
    """float64 ``[n_bins]``: `compatible_boundaries` or `quantile_boundaries`, as ``binning`` says."""
    cut = compatible_boundaries if binning == "compatible" else quantile_boundaries
    return cut(scores, n_bins)


def assign_bins(scores: NDArray[np.floating[Any]], boundaries: NDArray[np.float64]) -> NDArray[np.int64]:
    """int64 ``[n]``: the first i with score >= boundaries[i], else the last bin."""
    first = np.searchsorted(-boundaries, -np.asarray(scores, dtype=np.float64), side="left")
    return np.minimum(first, boundaries.size - 1)


def bin_probabilities(
    strategy: str,
    n_bins: int,
    *,
    step: int,
    total_steps: int,
    temperature: float = 1.0,
    frontier_bin: int | None = None,
) -> NDArray[np.float64]:
    """float64 ``[n_bins]``, summing to 1: how often each bin is sampled, t = clip(step / total_steps, 0, 1).

    ``easy_first``: p_i ~ (1 - t) exp(-2 i / max(1, n - 1)) + t / n.
    ``competence_based`` (after Platanios et al. 2019, arXiv 1904.03746): p_i ~ exp(-(i - c)^2 / 2), the
    center c moving from the easiest bin at t = 0 to the hardest at t = 1. Without ``frontier_bin`` it moves
    evenly, c = t (n - 1). With it, c passes that bin at t = 1/2: c = 2 t f up to there and
    f + (2 t - 1)(n - 1 - f) after; the same line when the frontier is the middle bin.
    ``uniform``: 1 / n.
    A temperature T other than 1 makes it p ~ max(p, 1e-10)^(1/T).

    Raises:
        ValueError: The strategy is not one of `BIN_STRATEGIES`.
    """
    progress = min(1.0, max(0.0, step / max(1, total_steps)))
    index = np.arange(n_bins, dtype=np.float64)
    if strategy == "uniform":
        return np.full(n_bins, 1.0 / n_bins)
    if strategy == "easy_first":
        p = (1.0 - progress) * np.exp(-2.0 * index / max(1, n_bins - 1)) + progress / n_bins
    elif strategy == "competence_based":
        p = np.exp(-0.5 * (index - _competence_center(progress, n_bins, frontier_bin)) ** 2)
    else:
        raise ValueError(f"unknown bin strategy {strategy!r}; known: {', '.join(BIN_STRATEGIES)}")
    p /= p.sum()
    if temperature != 1.0:
        log_p = np.log(np.maximum(p, MIN_PROBABILITY)) / temperature
        p = np.exp(log_p - log_p.max())
        p /= p.sum()
    return p


def _competence_center(progress: float, n_bins: int, frontier_bin: int | None) -> float:
    hardest = n_bins - 1
    if frontier_bin is None:
        return progress * hardest
    if progress <= 0.5:
        return 2.0 * progress * frontier_bin
    return frontier_bin + (2.0 * progress - 1.0) * (hardest - frontier_bin)
