"""Modifiers of any strategy's weights, and the split of completions over the prompts drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.strategies.uncertainty import outcome_std

SOLVED_RETRY = 0.5
"""p of GRESO: the part of its weight a prompt keeps with every all-right visit in a row."""
MIN_KEEP = 0.01


def keep_probability(solved_streak: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """float64 ``[n]``: max(p^s, 0.01), s consecutive all-right visits (GRESO, arXiv 2506.02177).

    GRESO skips a drawn prompt with probability 1 - max(p^s, 0.01) and draws another. That is the same as
    multiplying its weight by that, without discarded draws, and every prompt keeps a positive weight.
    """
    kept: NDArray[np.float64] = np.maximum(SOLVED_RETRY ** np.maximum(solved_streak, 0).astype(np.float64), MIN_KEEP)
    return kept


def staleness_factor(last_version: NDArray[np.integer[Any]], *, version: int, bonus: float) -> NDArray[np.float64]:
    """float64 ``[n]``: 1 + bonus * age, age the share of the run so far that passed since the last visit.

    age = (version - last_version) / (version + 1), clipped to [0, 1]: 1 for a prompt never seen (last_version -1),
    0 for one this policy version was seen with.
    """
    age = np.clip((version - last_version.astype(np.float64)) / (max(0, version) + 1.0), 0.0, 1.0)
    return 1.0 + bonus * age


def mix_with_uniform(weights: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """float64 ``[n]``: p = (1 - floor) w / sum(w) + floor / n, times sum(w): the mean is kept."""
    if weights.size == 0:
        return weights
    mixed: NDArray[np.float64] = (1.0 - floor) * weights + floor * weights.mean()
    return mixed


def allocate_rollouts(v_hat: NDArray[np.floating[Any]], total: int) -> NDArray[np.int32]:
    """Split ``total`` completions over the drawn prompts, n_i ~ sqrt(v (1 - v)) and at least 1 (CurES).

    Prompts whose share is below one completion get one; the others divide what is left in proportion, whole
    parts first, then one more to the largest remainders (the earlier prompt on a tie). If no prompt has an
    open outcome all are alike.

    Args:
        v_hat: ``[k]``, success rates of the prompts drawn.
        total: completions to give out, K * k.

    Returns:
        int32 ``[k]``, summing to ``total``.

    Raises:
        ValueError: ``total`` is below k.
    """
    num_prompts = v_hat.size
    if total < num_prompts:
        raise ValueError(f"{total} completions cannot give each of {num_prompts} prompts one")
    if num_prompts == 0:
        if total > 0:
            raise ValueError(f"{total} completions and no prompt to give them to")
        return np.empty(0, dtype=np.int32)
    spread = outcome_std(v_hat)
    if not spread.any():
        spread = np.ones(num_prompts)
    shares = np.ones(num_prompts)
    above = np.ones(num_prompts, dtype=np.bool_)
    while True:
        # Raising one prompt to 1 takes from the others, which may bring another below 1: repeat until none.
        left = total - np.count_nonzero(~above)
        shares[above] = left * spread[above] / spread[above].sum()
        below = above & (shares < 1.0)
        if not below.any():
            break
        shares[below] = 1.0
        above &= ~below
    # A share meant to be whole may come out a rounding error short of it.
    whole = np.floor(shares + 1e-9).astype(np.int32)
    by_remainder = np.argsort(whole - shares, kind="stable")
    whole[by_remainder[: total - int(whole.sum())]] += 1
    return whole
