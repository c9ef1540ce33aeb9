from __future__ import annotations

import math

import numpy as np
import pytest

from bolt_ray.core.baseline.level import Level
from bolt_ray.core.baseline.metrics import BaselineTotals, brier, value_totals, variance_reduction


def test_brier() -> None:
    assert brier([1, 0, 1], [0.5, 0.2, 1.0]) == pytest.approx((0.25 + 0.04 + 0.0) / 3)
    assert math.isnan(brier([], []))


def test_variance_reduction() -> None:
    assert variance_reduction([1, 0, 1, 0], [1, 0, 1, 0]) == 1.0
    assert variance_reduction([1, 0, 1, 0], [0.5] * 4) == 0.0
    assert variance_reduction([1, 0, 1, 0], [0.75, 0.25, 0.75, 0.25]) == pytest.approx(0.75)
    assert variance_reduction([1, 0, 1, 0], [0, 1, 0, 1]) == pytest.approx(-3.0)


def test_variance_reduction_is_undefined_without_variance() -> None:
    assert math.isnan(variance_reduction([1, 1], [0.5, 0.9]))
    assert math.isnan(variance_reduction([], []))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="both must be"):
        brier([1, 0], [0.5])


def test_totals_add_up() -> None:
    v_hat, n_eff = np.array([0.0, 0.3, 0.5, 0.81, 1.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    visits = np.array([0, 1, 1, 2, 0], dtype=np.int32)
    parts = [value_totals(v_hat[i], n_eff[i], visits[i]) for i in (slice(0, 2), slice(2, 2), slice(2, 5))]
    whole = sum(parts, start=BaselineTotals())
    assert whole.tracked == 5
    assert whole.visited == 3
    level = Level(means=(0.5,), strength=2.0, unseen_count=2.0)
    metrics = whole.baseline_metrics(level=level, drift_ema=0.0)
    assert metrics["baseline/avg_v_hat"] == pytest.approx(v_hat.mean())
    assert metrics["baseline/avg_N_eff"] == 3.0
    assert (metrics["baseline/min_v_hat"], metrics["baseline/max_v_hat"]) == (0.0, 1.0)
    stats = whole.curriculum_metrics(level=level)
    assert stats["curriculum/std_v_hat"] == pytest.approx(v_hat.std())
    assert stats["curriculum/pct_easy"] == 40.0
    assert stats["curriculum/pct_hard"] == 20.0
    assert stats["curriculum/pct_learning_edge"] == 40.0
    assert stats["curriculum/coverage"] == 60.0


def test_an_empty_store_shows_its_level() -> None:
    level = Level(means=(0.75,), strength=4.0, unseen_count=4.0)
    assert BaselineTotals().baseline_metrics(level=level, drift_ema=0.0)["baseline/avg_v_hat"] == 0.75
    stats = BaselineTotals().curriculum_metrics(level=level)
    assert (stats["curriculum/n_tracked"], stats["curriculum/mean_v_hat"]) == (0.0, 0.75)
    assert stats["curriculum/mean_uncertainty"] == pytest.approx(math.sqrt(0.1875))
    assert (stats["curriculum/std_v_hat"], stats["curriculum/coverage"]) == (0.0, 0.0)
