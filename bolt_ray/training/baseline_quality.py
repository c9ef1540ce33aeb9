"""What v̂ is worth: measured at every step against outcomes it was read before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.baseline.metrics import HISTOGRAM_BINS, brier, variance_reduction
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import ScoredRollout

declare_metrics(
    {
        "baseline/brier": ("", "mean (r̃ - v̂)² with v̂ as read before the completion was made"),
        "baseline/variance_reduction": (
            "share",
            "1 - Var(r̃ - v̂)/Var(r̃): what v̂ explains of the reward's variance; below 0 it is worse than the batch mean",
        ),
        "baseline/variance_reduction_seen": ("share", "the same, of prompts that were trained on before"),
        "baseline/seen_fraction": ("share of completions", "completions of such prompts"),
        "baseline/versions_between_visits": (
            "versions",
            "median, over the completions of prompts trained on before, of the policy versions since then",
        ),
        "baseline/decile_count_{i}": ("completions", "of the step, whose v̂ lay in the i-th tenth: for calibration"),
        "baseline/decile_v_hat_{i}": ("", "mean v̂ of these"),
        "baseline/decile_reward_{i}": ("", "mean scaled reward of these; equal to their mean v̂ if that is calibrated"),
    }
)


def quality_metrics(items: Sequence[ScoredRollout], scaled: NDArray[np.float64], *, version: int) -> dict[str, float]:
    """``baseline/*`` of a step's n completions; what is undefined, such as a share of no variance, is NaN.

    Args:
        items: the completions, with what was read at their dispatch.
        scaled: float64 [n], their rewards r̃ without shaping.
        version: the policy's, before the step.
    """
    v_hat = np.array([item.v_hat for item in items], dtype=np.float64)
    last = np.array([item.last_version for item in items], dtype=np.int64)
    seen = last >= 0
    tenth = np.minimum((v_hat * HISTOGRAM_BINS).astype(np.int64), HISTOGRAM_BINS - 1)
    counts = np.bincount(tenth, minlength=HISTOGRAM_BINS)
    metrics = {
        "baseline/brier": brier(scaled, v_hat),
        "baseline/variance_reduction": variance_reduction(scaled, v_hat),
        "baseline/variance_reduction_seen": variance_reduction(scaled[seen], v_hat[seen]),
        "baseline/seen_fraction": float(seen.mean()),
        "baseline/versions_between_visits": float(np.median(version - last[seen])) if seen.any() else math.nan,
    }
    for i in np.flatnonzero(counts).tolist():
        here = tenth == i
        metrics |= {
            f"baseline/decile_count_{i}": float(counts[i]),
            f"baseline/decile_v_hat_{i}": float(v_hat[here].mean()),
            f"baseline/decile_reward_{i}": float(scaled[here].mean()),
        }
    return metrics
