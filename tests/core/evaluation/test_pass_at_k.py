"""pass@k, maj@k and Wilson's interval against closed forms and enumeration."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from bolt_ray.core.evaluation.pass_at_k import difference_interval, maj_at_k, pass_at_k, wilson_interval


def test_pass_at_k_equals_enumeration() -> None:
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations([True] * c + [False] * (n - c), k))
                expected = sum(any(draw) for draw in draws) / len(draws)
                assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-12)


def test_pass_at_k_written_values() -> None:
    assert pass_at_k(8, 3, 1) == pytest.approx(3 / 8)
    assert pass_at_k(8, 3, 4) == pytest.approx(1 - 5 / 70)
    assert pass_at_k(5, 0, 5) == 0.0
    assert pass_at_k(5, 1, 5) == 1.0


def test_pass_at_k_of_many_samples_keeps_its_digits() -> None:
    exact = 1 - math.comb(9_999, 5_000) / math.comb(10_000, 5_000)
    assert pass_at_k(10_000, 1, 5_000) == pytest.approx(exact, rel=1e-10)
    assert pass_at_k(10**6, 1, 1) == pytest.approx(1e-6, rel=1e-9)


def test_pass_at_k_refuses_the_impossible() -> None:
    for n, c, k in ((4, 2, 0), (4, 2, 5), (4, 5, 1), (4, -1, 1), (0, 0, 1)):
        with pytest.raises(ValueError):
            pass_at_k(n, c, k)


def test_maj_at_k() -> None:
    answers, right = ["7", "8", "8", "7", "7"], [True, False, False, True, True]
    assert maj_at_k(answers, right) == 1.0
    assert maj_at_k(answers, right, 3) == 0.0
    assert maj_at_k(answers, right, 4) == 0.5  # a tie between right and wrong
    assert maj_at_k(answers, right, 1) == 1.0


def test_maj_at_k_ignores_what_could_not_be_parsed() -> None:
    assert maj_at_k([None, None, None, "7"], [False, False, False, True]) == 1.0
    assert maj_at_k([None, None], [False, False]) == 0.0


def test_maj_at_k_refuses_the_impossible() -> None:
    with pytest.raises(ValueError, match="k 3 and 2"):
        maj_at_k(["1", "2"], [True, False], 3)
    with pytest.raises(ValueError, match="verdicts"):
        maj_at_k(["1", "2"], [True])
    with pytest.raises(ValueError):
        maj_at_k([], [])


def test_wilson_written_values() -> None:
    # 7 of 10: (.7 + 1.92073/10 ± 1.95996·√(.021 + .0096036)) / 1.384146 = .396778, .892211
    assert wilson_interval(7, 10) == pytest.approx((0.396778, 0.892211), abs=1e-5)
    z2 = 1.959963984540054**2
    assert wilson_interval(0, 20) == pytest.approx((0.0, z2 / (20 + z2)))
    assert wilson_interval(20, 20) == pytest.approx((20 / (20 + z2), 1.0))
    assert wilson_interval(0, 20)[0] == 0.0
    assert wilson_interval(20, 20)[1] == 1.0


def test_wilson_bounds_solve_the_score_equation() -> None:
    for successes, trials in ((3, 11), (250, 1000), (1, 2)):
        z = 1.959963984540054
        for bound in wilson_interval(successes, trials):
            error = abs(successes / trials - bound)
            assert error == pytest.approx(z * math.sqrt(bound * (1 - bound) / trials), rel=1e-9)


def test_wilson_widens_with_confidence_and_refuses_the_impossible() -> None:
    narrow, wide = wilson_interval(5, 10, confidence=0.8), wilson_interval(5, 10, confidence=0.99)
    assert wide[0] < narrow[0] < 0.5 < narrow[1] < wide[1]
    for successes, trials, confidence in ((1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)):
        with pytest.raises(ValueError):
            wilson_interval(successes, trials, confidence=confidence)


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # Table II of the paper, example (a): 56 of 70 against 48 of 80.
    better, worse = (56 / 70, *wilson_interval(56, 70)), (48 / 80, *wilson_interval(48, 80))
    assert difference_interval(worse, better) == pytest.approx((0.0524, 0.3339), abs=5e-5)
