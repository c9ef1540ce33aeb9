"""Weighted sampling without replacement, in draw order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 32
"""Weights summed together before the cumulative sum: it then runs over n/32 numbers instead of n."""

MIN_BLOCKED = 100_000
"""Below this many weights the cumulative sum over all of them is the quicker way."""

MAX_REJECTION_ROUNDS = 8
"""Rounds of draw-and-reject before the remaining draws are made by sorting random keys."""


MAX_SOLVED = 50_000
"""Weights on which the time of the k-th ring is found."""

BISECTIONS = 60


def draw_without_replacement(weights: NDArray[np.float64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw k indices one after another, each with probability w_i / (weight of the indices not yet drawn).

    While the draws are few and the weights tame, indices are drawn with replacement from the cumulative sum
    and repeats are rejected: given that a draw is not a repeat, it has exactly the successive probability, so
    nothing is approximated. Where many draws repeat (k near n, or a few indices hold nearly all the weight)
    the draws still missing come from exponential keys (Efraimidis and Spirakis 2006, the Gumbel top-k
    trick), the same distribution in O(n log n) whatever the weights are.

    k > n gives several passes: every index once per pass, the passes drawn independently.

    Args:
        weights: float64 ``[n]``, every one positive and finite, in any scale.
        k: number of draws, at least 0.
        rng: the only source of randomness; the result is a function of (weights, k, state of rng).

    Returns:
        int64 ``[k]``, in draw order.

    Raises:
        ValueError: A weight is zero, negative, NaN or infinite, the sum overflows, k is negative, or there
            is nothing to draw from.
    """
    if weights.ndim != 1:
        raise ValueError(f"weights have shape {weights.shape}; one weight per index is needed")
    if k < 0:
        raise ValueError(f"cannot draw {k} indices")
    if weights.size == 0:
        if k > 0:
            raise ValueError(f"cannot draw {k} indices from none: the weights are empty")
        return np.empty(0, dtype=np.int64)
    weights = np.ascontiguousarray(weights, dtype=np.float64)
    block_sums = _checked_block_sums(weights)
    full_passes, rest = divmod(k, weights.size)
    passes = [_draw_by_keys(weights, weights.size, rng) for _ in range(full_passes)]
    if rest or not passes:
        passes.append(_draw_pass(weights, block_sums, rest, rng))
    return passes[0] if len(passes) == 1 else np.concatenate(passes)


def expected_draws(weights: NDArray[np.float64], k: int, indices: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 ``[m]``: how often each of ``indices`` is drawn by `draw_without_replacement`, in expectation.

    Of all n of them it sums to k. Costs a mean over the weights and the time for the m asked for.

    Drawing one after another is the same as drawing those whose exponential clocks of rates w_i ring first, so an index
    is drawn with probability 1 − e^(−t·w_i), t the time of the k-th ring. t is taken as fixed and found by bisection on
    some of the weights, which is exact as n grows.

    Args:
        weights: as there.
        k: number of draws, at least 0.
        indices: int64 ``[m]``.
    """
    full_passes, rest = divmod(k, weights.size)
    if rest == 0:
        return np.full(indices.size, float(full_passes))
    mean = weights.mean()
    some = weights[:: max(1, weights.size // MAX_SOLVED)] / mean
    share = rest / weights.size
    low, high = np.log(share) - np.log(some.max()), np.log(-np.log1p(-share)) - np.log(some.min())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if -np.expm1(-np.exp(middle) * some).mean() < share:
            low = middle
        else:
            high = middle
    drawn: NDArray[np.float64] = full_passes - np.expm1(-np.exp(high) * (weights[indices] / mean))
    return drawn


def _block_sums(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    if weights.size < MIN_BLOCKED:
        return weights
    whole = weights.size // BLOCK * BLOCK
    sums: NDArray[np.float64] = weights[:whole].reshape(-1, BLOCK).sum(axis=1)
    return np.append(sums, weights[whole:].sum()) if whole < weights.size else sums


def _checked_block_sums(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[ceil(n / BLOCK)]``: sums of runs of BLOCK weights; the weights themselves if they are few."""
    with np.errstate(over="ignore", invalid="ignore"):  # reported below, with the place
        block_sums = _block_sums(weights)
        total = float(block_sums.sum())
    # A minimum that is NaN fails the comparison too, so these two passes see every kind of bad weight.
    if float(weights.min()) > 0.0 and np.isfinite(total):
        return block_sums
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights > 0.0)))
    if bad.size == 0:
        raise ValueError("the sum of the weights overflows; scale them down")
    raise ValueError(
        f"weight {weights[bad[0]]} at index {bad[0]} ({bad.size} such in all); every weight must be positive and finite"
    )


def _draw_pass(
    weights: NDArray[np.float64], block_sums: NDArray[np.float64], k: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """k <= n distinct indices: by rejection as long as that pays, the rest by keys."""
    drawn = np.empty(0, dtype=np.int64)
    if k == 0:
        return drawn
    if 2 * k > weights.size:
        return _draw_by_keys(weights, k, rng)
    block_ends = np.cumsum(block_sums)
    for _ in range(MAX_REJECTION_ROUNDS):
        missing = k - drawn.size
        points = rng.random(missing + missing // 16 + 8) * block_ends[-1]
        candidates = _locate(points, weights, block_sums, block_ends)
        drawn = _first_occurrences(np.concatenate([drawn, candidates]))[:k]
        if drawn.size == k:
            return drawn
        if 2 * (k - drawn.size) > missing:  # most draws repeat
            break
    # What is drawn stays drawn: the rest of a successive draw is a successive draw from what is left.
    left = np.delete(np.arange(weights.size, dtype=np.int64), drawn)
    return np.concatenate([drawn, left[_draw_by_keys(weights[left], k - drawn.size, rng)]])


def _locate(
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
    block_sums: NDArray[np.float64],
    block_ends: NDArray[np.float64],
) -> NDArray[np.int64]:
    """int64 ``[m]``: in which weight's stretch of [0, total) each point lies."""
    # Rounding can carry a point up to the end of its stretch; the minimum keeps it on the last index of it.
    block = np.minimum(np.searchsorted(block_ends, points, side="right"), block_ends.size - 1)
    if block_sums is weights:
        return block
    within = points - (block_ends[block] - block_sums[block])
    members = block[:, None] * BLOCK + np.arange(BLOCK)
    last = weights.size - 1
    member_ends = np.cumsum(weights[np.minimum(members, last)], axis=1)
    offset = np.minimum((member_ends <= within[:, None]).sum(axis=1), BLOCK - 1)
    found: NDArray[np.int64] = np.minimum(block * BLOCK + offset, last)
    return found


def _first_occurrences(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distinct entries, in the order in which they first appear."""
    _, first = np.unique(indices, return_index=True)
    first.sort()
    return indices[first]


def _draw_by_keys(weights: NDArray[np.float64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The k smallest of E_i / w_i with E_i ~ Exp(1), ascending; log keys, so that no ratio overflows."""
    with np.errstate(divide="ignore"):  # an exponential of exactly 0 gives -inf, the first place
        keys = np.log(rng.standard_exponential(weights.size)) - np.log(weights)
    if k == weights.size:
        return np.argsort(keys, kind="stable").astype(np.int64)
    nearest = np.argpartition(keys, k - 1)[:k]
    order: NDArray[np.int64] = nearest[np.argsort(keys[nearest], kind="stable")]
    return order


def window_generator(seed: int, window: int, *, stream: int) -> np.random.Generator:
    """A Philox generator that depends on nothing but its arguments: no history, no cluster size.

    Args:
        seed: the curriculum's seed.
        window: number of the window, from 0.
        stream: 0 for the weights, 1 for the draws, so that neither shifts the other.
    """
    key = np.array([seed, window], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], dtype=np.uint64)))
