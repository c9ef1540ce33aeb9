"""Quality of the baseline, and the numbers that describe a store, mergeable over shards."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bolt_ray.core.baseline.level import Level
from bolt_ray.core.metric_names import declare_metrics

declare_metrics(
    {
        "baseline/num_prompts": ("prompts", "prompts with evidence"),
        "baseline/avg_v_hat": ("", "mean v̂ of the prompts with evidence"),
        "baseline/min_v_hat": ("", "lowest v̂ of the prompts with evidence"),
        "baseline/max_v_hat": ("", "highest v̂ of the prompts with evidence"),
        "baseline/avg_N_eff": ("outcomes", "mean effective number of outcomes behind v̂"),
        "baseline/avg_kl_ema": ("nats", "moving average of the policy's drift per version"),
        "baseline/cold_fraction": ("share of prompts", "registered prompts without evidence"),
        "baseline/hist_{i}": ("prompts", "prompts with evidence whose v̂ lies in the i-th tenth"),
        "curriculum/n_tracked": ("prompts", "prompts with evidence, after this step"),
        "curriculum/coverage": ("%", "prompts with evidence of all that may be drawn"),
        "curriculum/mean_v_hat": ("", "mean v̂ of the prompts with evidence"),
        "curriculum/std_v_hat": ("", "standard deviation of their v̂"),
        "curriculum/mean_uncertainty": ("", "mean of √(v̂(1 − v̂)) over the prompts with evidence"),
        "curriculum/pct_easy": ("%", "prompts with evidence whose v̂ is above 0.8"),
        "curriculum/pct_hard": ("%", "prompts with evidence whose v̂ is below 0.2"),
        "curriculum/pct_learning_edge": ("%", "prompts with evidence whose v̂ lies between 0.3 and 0.7"),
    }
)

EASY_ABOVE = 0.8
HARD_BELOW = 0.2
LEARNING_EDGE = (0.3, 0.7)
HISTOGRAM_BINS = 10


def brier(scaled_rewards: ArrayLike, v_hat: ArrayLike) -> float:
    """Mean (r̃ - v̂)², with v̂ as read at dispatch; NaN for an empty batch.

    Args:
        scaled_rewards: [n] in [0, 1].
        v_hat: [n] in [0, 1].
    """
    rewards, values = _pair(scaled_rewards, v_hat)
    return float(np.mean((rewards - values) ** 2)) if rewards.size else math.nan


def variance_reduction(scaled_rewards: ArrayLike, v_hat: ArrayLike) -> float:
    """1 - Var(r̃ - v̂) / Var(r̃): the share of the reward's variance the baseline takes away.

    1 for a perfect baseline, 0 for a useless (constant) one, negative for one that does harm; NaN when the
    rewards are all equal or there are none.

    Args:
        scaled_rewards: [n] in [0, 1].
        v_hat: [n] in [0, 1].
    """
    rewards, values = _pair(scaled_rewards, v_hat)
    if rewards.size == 0 or np.all(rewards == rewards[0]):
        return math.nan
    return float(1.0 - np.var(rewards - values) / np.var(rewards))


def _pair(rewards: ArrayLike, values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, right = np.asarray(rewards, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(f"rewards of shape {left.shape} and v_hat of shape {right.shape}; both must be [n]")
    return left, right


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineTotals:
    """Sums over the tracked prompts of a store or shard; ``+`` gives those of both together.

    Attributes:
        tracked: prompts with evidence.
        visited: those among them that were trained on, not only warm-started.
        sum_v_hat, sum_v_hat_squared, sum_n_eff, sum_uncertainty: Σ over tracked prompts.
        min_v_hat, max_v_hat: over tracked prompts; +inf and -inf if there are none.
        easy, hard, learning_edge: tracked prompts with v̂ > .8, < .2, in [.3, .7].
        rows, visited_rows, cold_rows: registered dataset rows; those visited; those without evidence.
        histogram: tracked prompts by v̂, in ``HISTOGRAM_BINS`` equal bins over [0, 1].
    """

    tracked: int = 0
    visited: int = 0
    sum_v_hat: float = 0.0
    sum_v_hat_squared: float = 0.0
    sum_n_eff: float = 0.0
    sum_uncertainty: float = 0.0
    min_v_hat: float = math.inf
    max_v_hat: float = -math.inf
    easy: int = 0
    hard: int = 0
    learning_edge: int = 0
    rows: int = 0
    visited_rows: int = 0
    cold_rows: int = 0
    histogram: tuple[int, ...] = (0,) * HISTOGRAM_BINS

    def __add__(self, other: BaselineTotals) -> BaselineTotals:
        merged = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        merged["min_v_hat"] = min(self.min_v_hat, other.min_v_hat)
        merged["max_v_hat"] = max(self.max_v_hat, other.max_v_hat)
        merged["histogram"] = tuple(a + b for a, b in zip(self.histogram, other.histogram, strict=True))
        return BaselineTotals(**merged)

    def baseline_metrics(self, *, level: Level, drift_ema: float) -> dict[str, float]:
        """``baseline/*``; an empty store shows its level, which is what a read would give.

        ``baseline/hist_<i>`` is the share of the tracked prompts with v̂ in bin i of ``HISTOGRAM_BINS``.
        """
        n = self.tracked
        return {f"baseline/hist_{i}": count / max(n, 1) for i, count in enumerate(self.histogram)} | {
            "baseline/num_prompts": float(n),
            "baseline/avg_v_hat": self.sum_v_hat / n if n else level.mean,
            "baseline/avg_N_eff": self.sum_n_eff / n if n else level.unseen_count,
            "baseline/min_v_hat": self.min_v_hat if n else level.mean,
            "baseline/max_v_hat": self.max_v_hat if n else level.mean,
            "baseline/avg_kl_ema": drift_ema,
            "baseline/cold_fraction": self.cold_rows / self.rows if self.rows else 0.0,
        }

    def curriculum_metrics(self, *, level: Level) -> dict[str, float]:
        """``curriculum/*`` over the tracked prompts, those with evidence; ``pct_*`` and ``coverage`` are percentages.

        The only definition of these numbers. A curriculum adds ``curriculum/mean_weight`` and the metrics of its
        strategy, because weights are known to it alone. Coverage is the share of the registered rows that were
        visited, or of the tracked prompts if no row is registered. Without a tracked prompt the means are those of
        the level and the percentages 0.
        """
        n = max(self.tracked, 1)
        mean = self.sum_v_hat / n if self.tracked else level.mean
        uncertainty = self.sum_uncertainty / n if self.tracked else math.sqrt(level.mean * (1.0 - level.mean))
        variance = self.sum_v_hat_squared / n - mean * mean if self.tracked else 0.0
        return {
            "curriculum/n_tracked": float(self.tracked),
            "curriculum/mean_v_hat": mean,
            "curriculum/std_v_hat": math.sqrt(max(variance, 0.0)),
            "curriculum/mean_uncertainty": uncertainty,
            "curriculum/pct_easy": 100.0 * self.easy / n,
            "curriculum/pct_hard": 100.0 * self.hard / n,
            "curriculum/pct_learning_edge": 100.0 * self.learning_edge / n,
            "curriculum/coverage": 100.0 * (self.visited_rows / self.rows if self.rows else self.visited / n),
        }


def value_totals(v_hat: NDArray[np.float64], n_eff: NDArray[np.float64], visits: NDArray[np.int32]) -> BaselineTotals:
    """The sums over n tracked prompts, given their values, effective counts and visits; no rows."""
    if v_hat.size == 0:
        return BaselineTotals()
    low, high = LEARNING_EDGE
    return BaselineTotals(
        tracked=v_hat.size,
        visited=int((visits > 0).sum()),
        sum_v_hat=float(v_hat.sum()),
        sum_v_hat_squared=float(np.dot(v_hat, v_hat)),
        sum_n_eff=float(n_eff.sum()),
        sum_uncertainty=float(np.sqrt(v_hat * (1.0 - v_hat)).sum()),
        min_v_hat=float(v_hat.min()),
        max_v_hat=float(v_hat.max()),
        easy=int((v_hat > EASY_ABOVE).sum()),
        hard=int((v_hat < HARD_BELOW).sum()),
        learning_edge=int(((v_hat >= low) & (v_hat <= high)).sum()),
        histogram=tuple(np.histogram(v_hat, bins=HISTOGRAM_BINS, range=(0.0, 1.0))[0].tolist()),
    )
