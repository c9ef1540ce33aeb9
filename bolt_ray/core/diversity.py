"""How much each of several completions differs from the others, by the runs of tokens they share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RUN_TOKENS = 4
"""Length of the runs compared, as the longest of BLEU's (Papineni et al., 2002)."""

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def diversity(token_ids: Sequence[NDArray[np.int32]], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """For each completion, the share of its different runs of tokens that another completion of its group lacks,
    averaged over the others; float64 [n] in [0, 1].

    0 for copies of each other, for a completion alone in its group, and for one without tokens. A completion shorter
    than a run is one run. Costs a sort of all tokens, not a comparison of all pairs.

    Args:
        token_ids: int32 [T] of each of n completions.
        groups: int64 [n], equal for completions to compare with each other.
    """
    n = len(token_ids)
    runs = [_runs(tokens) for tokens in token_ids]
    owners = np.repeat(np.arange(n), [len(found) for found in runs])
    if owners.size == 0:
        return np.zeros(n)
    _, group_of, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    codes = np.concatenate(runs) ^ (group_of[owners].astype(np.uint64) * _FACTOR)
    _, code_of, holders = np.unique(codes, return_inverse=True, return_counts=True)
    others = np.maximum(sizes[group_of] - 1, 1)
    lacking = 1.0 - (holders[code_of] - 1) / others[owners]
    means = np.bincount(owners, lacking, n) / np.maximum(np.bincount(owners, minlength=n), 1)
    result: NDArray[np.float64] = np.where(sizes[group_of] > 1, means, 0.0)
    return result


def _runs(tokens: NDArray[np.int32]) -> NDArray[np.uint64]:
    """A 64-bit code for each different run of a completion's tokens."""
    if tokens.size == 0:
        return np.zeros(0, dtype=np.uint64)
    length = min(RUN_TOKENS, tokens.size)
    ids = tokens.astype(np.uint64) + np.uint64(1)
    codes = np.zeros(tokens.size - length + 1, dtype=np.uint64)
    for place in range(length):
        codes = (codes ^ ids[place : tokens.size - length + 1 + place]) * _FACTOR
        codes ^= codes >> np.uint64(29)
    return np.unique(codes)
