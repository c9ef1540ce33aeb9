"""The options over a strategy and the split of completions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bolt_ray.core.curriculum.modifiers import (
    allocate_rollouts,
    keep_probability,
    mix_with_uniform,
    staleness_factor,
)


def test_solved_prompts_keep_half_with_each_visit_and_never_less_than_a_hundredth() -> None:
    kept = keep_probability(np.array([0, 1, 2, 6, 7, 100_000], dtype=np.int32))
    np.testing.assert_allclose(kept, [1.0, 0.5, 0.25, 0.015625, 0.01, 0.01])


def test_staleness_is_the_share_of_the_run_since_the_last_visit() -> None:
    last_version = np.array([-1, 0, 9, 19, 25], dtype=np.int32)
    factor = staleness_factor(last_version, version=19, bonus=2.0)
    np.testing.assert_allclose(factor, [3.0, 1.0 + 2.0 * 19 / 20, 2.0, 1.0, 1.0])
    np.testing.assert_allclose(staleness_factor(last_version[:1], version=0, bonus=2.0), [3.0])


def test_the_floor_gives_every_prompt_its_share_of_the_uniform_draws() -> None:
    mixed = mix_with_uniform(np.array([3.0, 1.0, 0.0, 0.0]), 0.2)
    np.testing.assert_allclose(mixed / mixed.sum(), [0.65, 0.25, 0.05, 0.05])
    assert mixed.sum() == pytest.approx(4.0)
    assert mix_with_uniform(np.empty(0), 0.2).shape == (0,)


@pytest.mark.parametrize(
    ("v_hat", "total", "expected"),
    [
        ([0.5, 0.5, 0.0, 1.0], 8, [3, 3, 1, 1]),  # the solved and the unsolved get one each
        ([0.5, 0.1], 8, [5, 3]),  # spreads .5 and .3
        ([0.5, 0.5, 0.1], 12, [5, 4, 3]),  # 4.615, 4.615, 2.769: first the largest remainder, then the earlier
        ([0.5, 0.1, 0.0], 4, [2, 1, 1]),  # 3 left for .5 and .3: 1.875 and 1.125
        ([0.0, 1.0, 1.0], 7, [3, 2, 2]),  # no open outcome: all alike
        ([0.5, 0.02], 2, [1, 1]),
        ([0.3], 5, [5]),
        ([], 0, []),
    ],
)
def test_completions_are_split_by_spread(v_hat: list[float], total: int, expected: list[int]) -> None:
    got = allocate_rollouts(np.array(v_hat, dtype=np.float64), total)
    assert got.tolist() == expected
    assert got.dtype == np.int32


def test_too_few_completions_are_refused() -> None:
    with pytest.raises(ValueError, match="2 completions cannot give each of 3 prompts one"):
        allocate_rollouts(np.full(3, 0.5), 2)
    with pytest.raises(ValueError, match="no prompt to give them to"):
        allocate_rollouts(np.empty(0), 2)


@settings(max_examples=100, deadline=None)
@given(v_hat=st.lists(st.floats(0, 1), min_size=1, max_size=60), extra=st.integers(0, 300))
def test_the_split_is_whole_and_ordered_by_spread(v_hat: list[float], extra: int) -> None:
    values = np.array(v_hat)
    got = allocate_rollouts(values, len(v_hat) + extra)
    assert got.sum() == len(v_hat) + extra
    assert got.min() >= 1
    # A clearly larger spread never gets fewer completions.
    order = np.argsort(values * (1 - values), kind="stable")
    assert (np.diff(got[order].astype(np.int64)) >= -1).all()
