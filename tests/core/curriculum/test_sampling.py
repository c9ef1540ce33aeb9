"""Weighted draws without replacement."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bolt_ray.core.curriculum.sampling import draw_without_replacement


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ordered_pair_probabilities(weights: NDArray[np.float64]) -> dict[tuple[int, int], float]:
    """P(first i, then j) = w_i / W * w_j / (W - w_i), by hand."""
    total = weights.sum()
    pairs = itertools.permutations(range(weights.size), 2)
    return {(i, j): weights[i] / total * weights[j] / (total - weights[i]) for i, j in pairs}


def chi_square(counts: list[int], expected: list[float]) -> float:
    return sum((c - e) ** 2 / e for c, e in zip(counts, expected, strict=True))


@pytest.mark.parametrize("num_items", [4, 5])
def test_ordered_pairs_have_the_successive_probabilities(num_items: int) -> None:
    # k = 2 of 4 is drawn by rejection, k = 3 of 5 (its first two looked at) by keys.
    weights = np.array([1.0, 2.0, 3.0, 10.0, 0.5])[:num_items]
    k = 2 if num_items == 4 else 3
    rng, num_draws = generator(1), 8_000
    seen = [tuple(draw_without_replacement(weights, k, rng)[:2].tolist()) for _ in range(num_draws)]
    probabilities = ordered_pair_probabilities(weights)
    counts = [seen.count(pair) for pair in probabilities]
    assert sum(counts) == num_draws
    # 11 or 19 degrees of freedom: 45 is past the 1e-3 tail of both.
    assert chi_square(counts, [p * num_draws for p in probabilities.values()]) < 45.0


def test_inclusion_of_rejection_and_of_keys_agree_on_many_items() -> None:
    weights = np.linspace(0.1, 2.0, 200)
    by_rejection, by_keys = np.zeros(200), np.zeros(200)
    rng = generator(2)
    for _ in range(2000):
        by_rejection[draw_without_replacement(weights, 60, rng)] += 1
        by_keys[draw_without_replacement(weights, 101, rng)[:60]] += 1
    # The first 60 of 101 are distributed as 60: compare deciles, each near 12,000 draws or fewer.
    left, right = by_rejection.reshape(10, 20).sum(1), by_keys.reshape(10, 20).sum(1)
    np.testing.assert_allclose(left, right, rtol=0.06)
    assert left[-1] > 3 * left[0]


def test_blocks_locate_what_the_cumulative_sum_locates() -> None:
    # 100,003 weights are 3,125 whole blocks of 32 and a rest of 3. Few of them hold nearly all the weight, at
    # the borders of blocks and in the rest, where an off-by-one would show.
    heavy = np.array([0, 31, 32, 63, 64, 99_999, 100_000, 100_001, 100_002])
    weights = np.full(100_003, 1e-9)
    weights[heavy] = np.arange(1.0, 10.0)
    counts, rng = np.zeros(100_003), generator(3)
    for _ in range(1_500):
        counts[draw_without_replacement(weights, 1, rng)] += 1
    assert counts[heavy].sum() == 1_500
    expected = weights[heavy] / weights[heavy].sum() * 1_500
    assert chi_square(counts[heavy].tolist(), expected.tolist()) < 30.0  # 8 degrees of freedom, tail 2e-4


def test_many_weights_are_drawn_in_proportion() -> None:
    weights = np.repeat([1.0, 4.0], 60_000)
    drawn = draw_without_replacement(weights, 5_000, generator(12))
    assert np.unique(drawn).size == 5_000
    # 4,000 expected of the second half, a little less as they run out; standard deviation 28.
    assert 3_850 < np.count_nonzero(drawn >= 60_000) < 4_100


def test_the_first_draw_follows_the_weights() -> None:
    weights = np.where(np.arange(100) % 32 == 31, 5.0, 1.0)
    weights[99] = 5.0
    rng, num_draws = generator(3), 12_000
    first = np.array([draw_without_replacement(weights, 1, rng)[0] for _ in range(num_draws)])
    expected = weights / weights.sum() * num_draws
    assert chi_square(np.bincount(first, minlength=100).tolist(), expected.tolist()) < 160.0  # 99 dof


def test_one_item_with_nearly_all_the_weight_comes_first_and_the_rest_stay_fair() -> None:
    weights = np.ones(1000)
    weights[7] = 1e15
    rng = generator(4)
    counts = np.zeros(1000)
    for _ in range(500):
        drawn = draw_without_replacement(weights, 100, rng)
        assert drawn[0] == 7
        assert np.unique(drawn).size == 100
        counts[drawn] += 1
    others = np.delete(counts, 7).reshape(9, 111).sum(1)
    np.testing.assert_allclose(others, 500 * 99 / 9, rtol=0.05)


@pytest.mark.parametrize("exponent", [2.0, 8.0, 60.0])
def test_extreme_skew_still_gives_distinct_indices(exponent: float) -> None:
    weights = (1.0 + np.arange(5000.0)) ** -exponent
    drawn = draw_without_replacement(weights, 1000, generator(5))
    assert np.unique(drawn).size == 1000
    assert np.median(drawn[:10]) < np.median(drawn[-100:])


def test_all_of_them_is_a_permutation() -> None:
    drawn = draw_without_replacement(np.linspace(1.0, 2.0, 1000), 1000, generator(6))
    assert sorted(drawn.tolist()) == list(range(1000))
    assert drawn.tolist() != list(range(1000))


def test_more_than_there_are_gives_passes_each_with_every_index_once() -> None:
    drawn = draw_without_replacement(np.linspace(1.0, 3.0, 7), 17, generator(7))
    assert drawn.dtype == np.int64
    assert drawn.shape == (17,)
    assert sorted(drawn[:7].tolist()) == list(range(7))
    assert sorted(drawn[7:14].tolist()) == list(range(7))
    assert np.unique(drawn[14:]).size == 3


def test_the_order_of_a_full_pass_follows_the_weights() -> None:
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    rng, num_draws = generator(11), 4_000
    drawn = np.array([draw_without_replacement(weights, 8, rng) for _ in range(num_draws)])
    expected = (weights / 10 * num_draws).tolist()
    for first in (drawn[:, 0], drawn[:, 4]):
        # 3 degrees of freedom: 17 is past the 1e-3 tail.
        assert chi_square(np.bincount(first, minlength=4).tolist(), expected) < 17.0


def test_nothing_asked_nothing_drawn() -> None:
    assert draw_without_replacement(np.ones(3), 0, generator()).tolist() == []
    assert draw_without_replacement(np.empty(0), 0, generator()).tolist() == []
    assert draw_without_replacement(np.ones(1), 3, generator()).tolist() == [0, 0, 0]


def test_the_same_generator_gives_the_same_draws() -> None:
    weights = generator(8).random(10_000) + 0.05
    first = draw_without_replacement(weights, 500, generator(9))
    np.testing.assert_array_equal(first, draw_without_replacement(weights, 500, generator(9)))
    assert (first != draw_without_replacement(weights, 500, generator(10))).any()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([1.0, 0.0, 1.0], r"weight 0\.0 at index 1 \(1 such"),
        ([1.0, -2.0, -3.0], r"weight -2\.0 at index 1 \(2 such"),
        ([1.0, 1.0, np.nan], "weight nan at index 2"),
        ([np.inf, 1.0, 1.0], "weight inf at index 0"),
        ([1e308, 1e308, 1e308], "overflows"),
        ([[1.0, 2.0]], "one weight per index"),
    ],
)
def test_bad_weights_are_refused(bad: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_without_replacement(np.array(bad), 1, generator())


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot draw -1"):
        draw_without_replacement(np.ones(3), -1, generator())
    with pytest.raises(ValueError, match="from none"):
        draw_without_replacement(np.empty(0), 2, generator())


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(1e-12, 1e12), min_size=1, max_size=150),
    k=st.integers(0, 400),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pass_holds_distinct_indices(weights: list[float], k: int, seed: int) -> None:
    drawn = draw_without_replacement(np.array(weights), k, generator(seed))
    assert drawn.shape == (k,)
    for start in range(0, k, len(weights)):
        one_pass = drawn[start : start + len(weights)]
        assert np.unique(one_pass).size == one_pass.size
        assert one_pass.min() >= 0
        assert one_pass.max() < len(weights)
