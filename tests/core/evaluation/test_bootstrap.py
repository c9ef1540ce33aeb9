"""The paired bootstrap against the normal interval, exact cases and its own coverage."""

from __future__ import annotations

import numpy as np
import pytest

from bolt_ray.core.evaluation.bootstrap import paired_bootstrap


@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.959964), (0.8, 1.281552), (0.5, 0.674490)])
def test_interval_agrees_with_the_paired_normal_interval(confidence: float, z: float) -> None:
    rng = np.random.default_rng(0)
    difficulty = rng.uniform(size=400)
    a = difficulty + 0.05 * rng.standard_normal(400)
    b = difficulty + 0.03 + 0.05 * rng.standard_normal(400)
    out = paired_bootstrap(a, b, seed=1, confidence=confidence)
    half = z * (b - a).std(ddof=1) / 20
    assert out.difference == pytest.approx((b - a).mean())
    assert (out.low, out.high) == pytest.approx(((b - a).mean() - half, (b - a).mean() + half), abs=0.1 * half)
    assert out.significant
    assert out.p_value == pytest.approx(1 / 10_001)
    assert (out.mean_a, out.mean_b, out.num_prompts) == (
        pytest.approx(a.mean()),
        pytest.approx(b.mean()),
        400,
    )


def test_a_worse_model_is_significant_too_and_a_doubtful_difference_is_not() -> None:
    noise = np.random.default_rng(5).standard_normal(100)
    better = noise - noise.mean() + 0.5
    assert paired_bootstrap(np.zeros(100), better, seed=1).significant
    worse = paired_bootstrap(better, np.zeros(100), seed=1)
    assert worse.high < 0.0 and worse.significant
    doubtful = paired_bootstrap(np.zeros(100), better - 0.49, seed=1)
    assert doubtful.low < 0.0 < doubtful.high and not doubtful.significant


def test_pairing_ignores_how_hard_the_prompts_are() -> None:
    difficulty = np.random.default_rng(3).uniform(size=50) * 100
    out = paired_bootstrap(difficulty, difficulty + 0.01, seed=1)
    assert (out.low, out.high) == (pytest.approx(0.01), pytest.approx(0.01))


def test_equal_models_differ_by_nothing() -> None:
    out = paired_bootstrap([0.0, 1.0, 0.5], [0.0, 1.0, 0.5], seed=1)
    assert (out.difference, out.low, out.high, out.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert not out.significant


def test_two_prompts_exactly() -> None:
    # differences 0 and 1: resampled means 0, .5, 1 with chances ¼, ½, ¼; |mean − .5| ≥ .5 half the time.
    out = paired_bootstrap([0.0, 0.0], [0.0, 1.0], seed=5, num_resamples=20_000)
    assert out.p_value == pytest.approx(0.5, abs=0.02)
    assert (out.low, out.high) == (0.0, 1.0)


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.uniform(size=30), rng.uniform(size=30)
    assert paired_bootstrap(a, b, seed=7) == paired_bootstrap(a, b, seed=7)
    assert paired_bootstrap(a, b, seed=7).low != paired_bootstrap(a, b, seed=8).low


def test_coverage_is_near_its_confidence() -> None:
    """60 %, where a wrong confidence shows; 200 trials have a standard deviation of 3.5 points."""
    rng = np.random.default_rng(4)
    hits = 0
    for trial in range(200):
        differences = rng.standard_normal(60) + 0.2
        out = paired_bootstrap(np.zeros(60), differences, seed=trial, num_resamples=400, confidence=0.6)
        hits += out.low <= 0.2 <= out.high
    assert 0.5 <= hits / 200 <= 0.7


def test_bad_requests_are_refused() -> None:
    for a, b in (([], []), ([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]])):
        with pytest.raises(ValueError, match="same prompts"):
            paired_bootstrap(a, b, seed=0)
    with pytest.raises(ValueError, match="finite"):
        paired_bootstrap([float("nan")], [1.0], seed=0)
    with pytest.raises(ValueError, match="num_resamples"):
        paired_bootstrap([0.0], [1.0], seed=0, num_resamples=0)
    with pytest.raises(ValueError, match="confidence"):
        paired_bootstrap([0.0], [1.0], seed=0, confidence=1.0)
