"""What v̂ is worth: measured at every step against outcomes it was read before, and said when it is worth nothing."""

from __future__ import annotations

import math
from collections import deque
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
        "baseline/versions_between_visits": (
            "versions",
            "median, over the completions of prompts trained on before, of the policy versions since then",
        ),
        "baseline/decile_count_{i}": ("completions", "of the step, whose v̂ lay in the i-th tenth: for calibration"),
        "baseline/decile_v_hat_{i}": ("", "mean v̂ of these"),
        "baseline/decile_reward_{i}": ("", "mean scaled reward of these; equal to their mean v̂ if that is calibrated"),
    }
)

STEPS_JUDGED = 20
ENOUGH_COMPLETIONS = 256


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


class BaselineWatch:
    """Says in words what is wrong with v̂, once there are ``STEPS_JUDGED`` steps of enough completions to say so.

    Args:
        uses_tracker: whether v̂ is what the advantages subtract, and not the curriculum's alone.
        forgets_after: policy versions over which evidence fades where it fades by version (``forgetting: event``).
    """

    def __init__(self, *, uses_tracker: bool, forgets_after: float | None = None) -> None:
        self._uses_tracker = uses_tracker
        self._forgets_after = forgets_after
        self._steps: deque[NDArray[np.float64]] = deque()

    def step(self, items: Sequence[ScoredRollout], scaled: NDArray[np.float64], *, version: int) -> dict[str, str]:
        """Take in a step; the warnings it leads to, by a word for each kind."""
        gaps = np.array([version - item.last_version for item in items if item.last_version >= 0])
        if not gaps.size:
            return {}
        seen = np.array([item.last_version >= 0 for item in items], dtype=np.bool_)
        rewards = scaled[seen]
        left = rewards - np.array([item.v_hat for item in items], dtype=np.float64)[seen]
        self._steps.append(rewards.size * np.array([1.0, np.var(left), np.var(rewards)]))
        total = sum(self._steps, start=np.zeros(3))
        while len(self._steps) > STEPS_JUDGED and total[0] - self._steps[0][0] >= ENOUGH_COMPLETIONS:
            total = total - self._steps.popleft()
        if len(self._steps) < STEPS_JUDGED or total[0] < ENOUGH_COMPLETIONS:
            return {}
        gap = float(np.median(gaps))
        return self._of_forgetting(gap) | self._of_quality(gap, *total[1:].tolist())

    def _of_forgetting(self, gap: float) -> dict[str, str]:
        if self._forgets_after is None or gap <= self._forgets_after:
            return {}
        return {
            "forgetting": f"Warning: prompts are visited about every {gap:.0f} versions, and forgetting: event loses "
            f"what is older than {self._forgets_after:.0f}: v̂ is little more than the last outcome. Use "
            "baseline.forgetting=kl, or raise baseline.rho_min"
        }

    def _of_quality(self, gap: float, left_over: float, variance: float) -> dict[str, str]:
        if not left_over > variance > 0:
            return {}
        cost = "; advantages are noisier with it than with advantage.baseline: batch" if self._uses_tracker else ""
        return {
            "quality": f"Warning: over the last {len(self._steps)} steps v̂ predicted rewards worse than the batch's "
            f"mean (variance removed: {1.0 - left_over / variance:.0%}). Prompts are visited about every {gap:.0f} "
            f"versions{cost}. See docs/algorithms.md, Persistent baseline, for forgetting and strength"
        }
