"""What v̂ is worth, in numbers and in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.rollouts import scored_rollout

from bolt_ray.core.records import ScoredRollout
from bolt_ray.training.baseline_quality import quality_metrics


def scored(v_hat: float, *, last_version: int = -1) -> ScoredRollout:
    return scored_rollout(v_hat=v_hat, last_version=last_version)


def test_prompts_seen_before_are_told_apart() -> None:
    items = [scored(0.75, last_version=4), scored(0.25, last_version=1), scored(0.5), scored(0.5)]
    metrics = quality_metrics(items, np.array([1.0, 0.0, 1.0, 0.0]), version=6)
    # Seen: Var(±.25)/Var of .25; all: residuals ¼, -¼, ½, -½.
    assert metrics["baseline/variance_reduction_seen"] == pytest.approx(0.75)
    assert metrics["baseline/variance_reduction"] == pytest.approx(1 - (0.0625 + 0.25) / 2 / 0.25)
    assert metrics["baseline/versions_between_visits"] == 3.5
    assert metrics["baseline/seen_fraction"] == 0.5


def test_nothing_seen_before_is_no_number() -> None:
    metrics = quality_metrics([scored(0.5), scored(0.5)], np.array([1.0, 0.0]), version=6)
    assert math.isnan(metrics["baseline/variance_reduction_seen"])
    assert math.isnan(metrics["baseline/versions_between_visits"])


def test_calibration_by_tenth() -> None:
    items = [scored(v_hat) for v_hat in (0.0, 0.05, 0.31, 0.39, 1.0)]
    metrics = quality_metrics(items, np.array([0.0, 1.0, 1.0, 0.5, 1.0]), version=0)
    found = {name: value for name, value in metrics.items() if "decile" in name}
    assert found == pytest.approx(
        {
            "baseline/decile_count_0": 2,
            "baseline/decile_v_hat_0": 0.025,
            "baseline/decile_reward_0": 0.5,
            "baseline/decile_count_3": 2,
            "baseline/decile_v_hat_3": 0.35,
            "baseline/decile_reward_3": 0.75,
            "baseline/decile_count_9": 1,
            "baseline/decile_v_hat_9": 1.0,
            "baseline/decile_reward_9": 1.0,
        }
    )
