"""How much completions differ: values by hand, and what makes no difference."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from bolt_ray.core.diversity import diversity


def tokens(*ids: int) -> NDArray[np.int32]:
    return np.array(ids, dtype=np.int32)


def of(*completions: NDArray[np.int32], groups: list[int] | None = None) -> list[float]:
    return diversity(completions, np.array(groups or [0] * len(completions), dtype=np.int64)).tolist()


def test_by_hand() -> None:
    # Runs of the first: 1234, 2345; of the second: 1234, 2346; of the third: none in common.
    got = of(tokens(1, 2, 3, 4, 5), tokens(1, 2, 3, 4, 6), tokens(7, 8, 9, 10, 11))
    assert got == pytest.approx([(0.5 + 1) / 2, (0.5 + 1) / 2, 1.0])


def test_copies_and_completions_without_another_are_not_diverse() -> None:
    assert of(tokens(1, 2, 3, 4), tokens(1, 2, 3, 4)) == [0.0, 0.0]
    assert of(tokens(1, 2, 3, 4)) == [0.0]
    assert of() == []


def test_repeating_oneself_counts_once() -> None:
    once, thrice = tokens(1, 2, 3, 4), tokens(1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4)
    assert of(once, thrice)[0] == 0.0
    assert of(once, thrice)[1] == pytest.approx(3 / 4)  # 1234, and 2341, 3412, 4123


def test_only_the_group_counts() -> None:
    a, b = tokens(1, 2, 3, 4), tokens(5, 6, 7, 8)
    assert of(a, b, a, b, groups=[4, 4, 9, 9]) == [1.0, 1.0, 1.0, 1.0]
    assert of(a, b, a, b) == pytest.approx([2 / 3] * 4)


def test_completions_shorter_than_a_run() -> None:
    assert of(tokens(1), tokens(1), tokens(2), tokens()) == pytest.approx([2 / 3, 2 / 3, 1.0, 0.0])
    assert of(tokens(1, 2), tokens(2, 1)) == [1.0, 1.0]


def test_the_order_of_completions_makes_no_difference() -> None:
    rng = np.random.default_rng(0)
    many = [tokens(*rng.integers(0, 3, rng.integers(1, 9))) for _ in range(40)]
    order = rng.permutation(40)
    groups = rng.integers(0, 4, 40)
    there = diversity(many, groups)
    assert diversity([many[i] for i in order], groups[order]).tolist() == there[order].tolist()
