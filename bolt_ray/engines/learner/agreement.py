"""How far learner and generator are apart on the tokens that the generator sampled, and how much of it is rounding."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.sequence_sums import MAX_EXPONENT

declare_metrics(
    {
        "policy/logprob_gap": (
            "nats",
            "mean |Δ log p| between learner and generator on the trained tokens, before the update",
        ),
        "policy/logprob_gap_max": ("nats", "the largest such difference"),
        "policy/gen_kl": (
            "nats",
            "KL of the generator to the learner per trained token, before the update: k3, the mean of r - 1 - log r "
            "with the r of policy/ratio_p1",
        ),
        "policy/ratio_p1": (
            "",
            "1st percentile over the trained tokens of r, the learner's probability of a token before the update over "
            "the generator's when it sampled it: what importance correction weighs by. Every rank's tokens count",
        ),
        "policy/ratio_p99": ("", "99th percentile of these"),
        "policy/rounding": (
            "nats",
            "bfloat16: RMS of Δ log p between two passes over the same tokens by the same weights, of some sequences",
        ),
    }
)

Column = NDArray[np.float32]


def gap_metrics(ours: Column, theirs: Column, tokens: NDArray[np.int64]) -> dict[str, float]:
    """How far learner and generator are apart on the same tokens; NaN if one log-prob is NaN.

    ``policy/logprob_gap`` is the mean |d|, ``policy/logprob_gap_max`` the largest, in nats; d = log p of the learner
    minus log p of the generator. ``policy/gen_kl`` estimates KL(generator ‖ learner) by k3 (Schulman, "Approximating KL
    divergence", 2020): never negative, and of less variance than the mean of -d. The percentiles are by nearest rank.
    No other code computes any of them.

    Args:
        ours, theirs: float32 [Σ completion_lengths].
        tokens: int64 [n], n ≥ 1, places in the columns to compare.
    """
    log_ratio = ours[tokens] - theirs[tokens]
    gap = np.abs(log_ratio)
    largest = float(gap.max())
    bounded = np.minimum(log_ratio, MAX_EXPONENT)
    # float64: of differences around 1e-7 the KL is what is left of 1e-14.
    exact = bounded.astype(np.float64)
    low, high = (-(-percent * len(bounded) // 100) - 1 for percent in (1, 99))  # places among the sorted
    bounded.partition((low, high))  # sorts NaN behind all numbers
    if math.isnan(largest):
        bounded[:] = math.nan
    return {
        "policy/logprob_gap": float(gap.mean()),
        "policy/logprob_gap_max": largest,
        "policy/gen_kl": float((np.expm1(exact) - exact).mean()),
        "policy/ratio_p1": float(np.exp(bounded[low])),
        "policy/ratio_p99": float(np.exp(bounded[high])),
    }


def rounding_metrics(ours: Column, again: Column, tokens: NDArray[np.int64]) -> dict[str, float]:
    """``policy/rounding``: how far two passes by the same weights are apart, laid out differently. In bfloat16 that is
    more than a small step moves the policy, and would be taken for such a step.

    Args:
        ours, again: float32 [Σ completion_lengths].
        tokens: int64 [n], n ≥ 1, places in the columns to compare.
    """
    return {"policy/rounding": float(np.sqrt(np.mean((ours[tokens] - again[tokens]).astype(np.float64) ** 2)))}
