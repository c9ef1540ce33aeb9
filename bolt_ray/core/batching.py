"""Cutting one batch of ragged sequences into ranks and micro-batches, by tokens.

    sequences ──balance──▶ ranks ──pack──▶ micro-batches of rows ──▶ rows hold whole sequences, end to end

A micro-batch is a rectangle of ``rows × row_length`` tokens, at most ``token_budget``. Its row length is that of
its longest sequence, and shorter sequences are laid behind one another until a row is full. So little padding is
computed, and attention inside a row never spans more than the longest sequence of the micro-batch. Every rank gets
the same number of micro-batches (some may be empty), because collectives must be entered by all of them.

The plan is a pure function of the lengths: every rank computes the whole of it and takes its own part.
"""

from __future__ import annotations

import bisect
import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatchPlan:
    """Which sequences make one micro-batch.

    Attributes:
        rows: for each row the sequence indices in it, left to right; no rows at all in an empty micro-batch.
        row_length: tokens in a row, padding included.
    """

    rows: tuple[tuple[int, ...], ...]
    row_length: int

    @property
    def tokens_computed(self) -> int:
        """Tokens the model runs over, padding included."""
        return len(self.rows) * self.row_length

    @property
    def packed(self) -> bool:
        """True if some row holds more than one sequence."""
        return any(len(row) > 1 for row in self.rows)


EMPTY_MICRO_BATCH = MicroBatchPlan(rows=(), row_length=0)


def balance_over_ranks(lengths: NDArray[np.integer], num_ranks: int) -> list[NDArray[np.int64]]:
    """Deal sequences out so that the ranks hold nearly the same number of tokens.

    Longest first, each to the rank with the fewest tokens so far (Graham's LPT rule, at most 4/3 of the optimum).

    Args:
        lengths: int [n], tokens of each sequence.
        num_ranks: number of ranks, at least 1.

    Returns:
        For each rank the indices (into ``lengths``) of its sequences, ascending.

    Raises:
        ValueError: if ``num_ranks`` is below 1.
    """
    if num_ranks < 1:
        raise ValueError(f"num_ranks must be at least 1, not {num_ranks}")
    if num_ranks == 1:
        return [np.arange(lengths.shape[0], dtype=np.int64)]
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    heap = [(0, rank) for rank in range(num_ranks)]
    for index in np.argsort(-lengths.astype(np.int64), kind="stable").tolist():
        tokens, rank = heapq.heappop(heap)
        shares[rank].append(index)
        heapq.heappush(heap, (tokens + int(lengths[index]), rank))
    return [np.array(sorted(share), dtype=np.int64) for share in shares]


def pack_micro_batches(
    lengths: NDArray[np.integer],
    indices: NDArray[np.integer],
    *,
    token_budget: int,
    pack: bool = True,
    row_capacity: int | None = None,
) -> list[MicroBatchPlan]:
    """Cut one rank's sequences into micro-batches.

    The longest sequence left opens a micro-batch and sets its row length; each row then takes the longest sequence
    that still fits, until none does (best-fit decreasing). A sequence longer than the budget gets a micro-batch of
    its own, with no padding: it cannot be cut.

    Args:
        lengths: int [n], tokens of every sequence of the batch.
        indices: int [m], those to place.
        token_budget: most tokens in a micro-batch, padding included.
        pack: False puts one sequence in a row.
        row_capacity: row length to fill instead of the longest sequence's; for attention kernels that skip the
            empty blocks (one long row costs them nothing).

    Returns:
        Micro-batches, longest rows first; no micro-batch is empty.

    Raises:
        ValueError: if ``token_budget`` is below 1.
    """
    if token_budget < 1:
        raise ValueError(f"token_budget must be at least 1, not {token_budget}")
    order = sorted((int(lengths[i]), -int(i)) for i in indices.tolist())
    keys = [length for length, _ in order]
    waiting = [-negative for _, negative in order]
    plans: list[MicroBatchPlan] = []
    while waiting:
        row_length = max(keys[-1], min(row_capacity or 0, token_budget))
        rows: list[tuple[int, ...]] = []
        while waiting and (not rows or (len(rows) + 1) * row_length <= token_budget):
            row, room = [], row_length
            while waiting:
                place = bisect.bisect_right(keys, room) - 1
                if place < 0:
                    break
                room -= keys.pop(place)
                row.append(waiting.pop(place))
                if not pack:
                    break
            rows.append(tuple(row))
        longest = max(sum(int(lengths[i]) for i in row) for row in rows)
        plans.append(MicroBatchPlan(rows=tuple(rows), row_length=longest))
    return plans


def plan_micro_batches(
    lengths: NDArray[np.integer],
    indices: NDArray[np.integer],
    *,
    num_ranks: int,
    token_budget: int,
    pack: bool = True,
    row_capacity: int | None = None,
) -> list[list[MicroBatchPlan]]:
    """The micro-batches of every rank for one optimizer step; all ranks get the same number, at least 1.

    Args:
        lengths: int [n], tokens of every sequence of the batch.
        indices: int [m], the sequences of this optimizer step.
        num_ranks, token_budget, pack, row_capacity: see `balance_over_ranks` and `pack_micro_batches`.
    """
    chosen = indices.astype(np.int64)
    shares = balance_over_ranks(lengths[chosen], num_ranks)
    ranks = [
        pack_micro_batches(lengths, chosen[share], token_budget=token_budget, pack=pack, row_capacity=row_capacity)
        for share in shares
    ]
    most = max(1, *(len(plans) for plans in ranks))
    return [plans + [EMPTY_MICRO_BATCH] * (most - len(plans)) for plans in ranks]


def split_minibatches(
    indices: NDArray[np.integer], minibatch_size: int | None, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Shuffle and cut sequences into nearly equal mini-batches of at most ``minibatch_size``.

    Sizes differ by one at most, so that the last mini-batch is not a noisy stub. Without a size there is one
    mini-batch, in the order given.
    """
    chosen = indices.astype(np.int64)
    if minibatch_size is None or chosen.shape[0] <= minibatch_size:
        return [chosen]
    if minibatch_size < 1:
        raise ValueError(f"minibatch_size must be at least 1, not {minibatch_size}")
    parts = -(-chosen.shape[0] // minibatch_size)
    return [np.sort(part) for part in np.array_split(rng.permutation(chosen), parts)]
