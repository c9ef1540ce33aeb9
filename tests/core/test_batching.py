"""Token-budget micro-batches: hand-computed packings, and what must hold for any lengths."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bolt_ray.core.batching import (
    EMPTY_MICRO_BATCH,
    balance_over_ranks,
    pack_micro_batches,
    plan_micro_batches,
    split_minibatches,
)


def lengths(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_longest_first_to_the_emptiest_rank() -> None:
    # 9 → rank 0, 7 → rank 1, 5 → rank 1 (7 < 9), 4 → rank 0, 3 → rank 1 (12 < 13)
    shares = balance_over_ranks(lengths(3, 9, 4, 7, 5), 2)
    assert [share.tolist() for share in shares] == [[1, 2], [0, 3, 4]]


def test_more_ranks_than_sequences_leaves_ranks_empty() -> None:
    assert [share.tolist() for share in balance_over_ranks(lengths(4), 3)] == [[0], [], []]
    assert [share.tolist() for share in balance_over_ranks(lengths(), 2)] == [[], []]


def test_short_sequences_fill_the_rows_of_the_longest() -> None:
    # Rows of 10: 10 | 6 + 4 | 5 + 3; the budget of 20 takes two rows.
    plans = pack_micro_batches(lengths(10, 6, 4, 5, 3), np.arange(5), token_budget=20)
    assert [plan.rows for plan in plans] == [((0,), (1, 2)), ((3,), (4,))]
    assert [plan.row_length for plan in plans] == [10, 5]
    assert [plan.packed for plan in plans] == [True, False]
    assert [plan.tokens_computed for plan in plans] == [20, 10]


def test_without_packing_a_row_holds_one_sequence() -> None:
    plans = pack_micro_batches(lengths(10, 6, 4, 5, 3), np.arange(5), token_budget=20, pack=False)
    assert [plan.rows for plan in plans] == [((0,), (1,)), ((3,), (2,), (4,))]
    assert [plan.row_length for plan in plans] == [10, 5]


def test_a_sequence_over_the_budget_stands_alone() -> None:
    plans = pack_micro_batches(lengths(30, 2, 2), np.arange(3), token_budget=8)
    assert [plan.rows for plan in plans] == [((0,),), ((1,), (2,))]
    assert [plan.row_length for plan in plans] == [30, 2]


def test_row_capacity_makes_one_long_row() -> None:
    plans = pack_micro_batches(lengths(4, 3, 2, 1), np.arange(4), token_budget=10, row_capacity=10)
    assert [plan.rows for plan in plans] == [((0, 1, 2, 3),)]
    assert plans[0].row_length == 10


def test_row_capacity_stays_within_the_budget() -> None:
    plans = pack_micro_batches(lengths(4, 3, 2, 1), np.arange(4), token_budget=6, row_capacity=10)
    assert [plan.rows for plan in plans] == [((0, 2),), ((1, 3),)]
    assert [plan.row_length for plan in plans] == [6, 4]


def test_equal_lengths_need_no_packing() -> None:
    plans = pack_micro_batches(lengths(5, 5, 5), np.arange(3), token_budget=100)
    assert plans[0].rows == ((0,), (1,), (2,))
    assert not plans[0].packed


def test_every_rank_gets_the_same_number_of_micro_batches() -> None:
    ranks = plan_micro_batches(lengths(8, 2), np.arange(2), num_ranks=2, token_budget=8)
    assert [len(plans) for plans in ranks] == [1, 1]
    ranks = plan_micro_batches(lengths(8), np.arange(1), num_ranks=2, token_budget=8)
    assert ranks[1] == [EMPTY_MICRO_BATCH]
    assert plan_micro_batches(lengths(8), np.arange(0), num_ranks=1, token_budget=8) == [[EMPTY_MICRO_BATCH]]


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="token_budget"):
        pack_micro_batches(lengths(1), np.arange(1), token_budget=0)
    with pytest.raises(ValueError, match="num_ranks"):
        balance_over_ranks(lengths(1), 0)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 60), min_size=0, max_size=80),
    ranks=st.integers(1, 4),
    budget=st.integers(1, 200),
    pack=st.booleans(),
    row_capacity=st.none() | st.integers(1, 300),
)
def test_every_sequence_once_and_within_budget(
    sizes: list[int], ranks: int, budget: int, pack: bool, row_capacity: int | None
) -> None:
    values = np.array(sizes, dtype=np.int32)
    chosen = np.arange(len(sizes))[::2]
    plans = plan_micro_batches(
        values, chosen, num_ranks=ranks, token_budget=budget, pack=pack, row_capacity=row_capacity
    )
    assert len({len(rank) for rank in plans}) == 1
    placed = []
    for rank in plans:
        for plan in rank:
            for row in plan.rows:
                assert sum(values[i] for i in row) <= plan.row_length
                placed += row
            assert plan.tokens_computed <= budget or [len(row) for row in plan.rows] == [1]
    assert sorted(placed) == chosen.tolist()


def test_minibatches_are_even_and_depend_on_the_generator_only() -> None:
    parts = split_minibatches(np.arange(10), 4, np.random.default_rng(1))
    assert [len(part) for part in parts] == [4, 3, 3]
    assert sorted(np.concatenate(parts).tolist()) == list(range(10))
    again = split_minibatches(np.arange(10), 4, np.random.default_rng(1))
    assert all((first == second).all() for first, second in zip(parts, again, strict=True))


def test_minibatches_are_drawn_at_random() -> None:
    """In parts of 4, 3 and 3 the first and the last of ten fall together with chance 24/90."""
    together = 0
    for seed in range(500):
        parts = split_minibatches(np.arange(10), 4, np.random.default_rng(seed))
        together += any({0, 9} <= set(part.tolist()) for part in parts)
    assert 0.2 < together / 500 < 0.33


def test_minibatches_of_one() -> None:
    parts = split_minibatches(np.array([4, 2, 7]), 1, np.random.default_rng(0))
    assert sorted(part.tolist() for part in parts) == [[2], [4], [7]]
    with pytest.raises(ValueError, match="minibatch_size"):
        split_minibatches(np.array([4, 2, 7]), 0, np.random.default_rng(0))


def test_no_minibatch_size_keeps_the_batch_whole() -> None:
    assert [part.tolist() for part in split_minibatches(np.array([4, 2]), None, np.random.default_rng(0))] == [[4, 2]]
