"""What the completions of a step are like: their lengths, versions and sources, and how many there were so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import Completion, ScoredRollout
from bolt_ray.training.rollout import StepRollouts

declare_metrics(
    {
        "completions/max_length": ("tokens", "length of the longest completion trained on"),
        "completions/mean_length": ("tokens", "mean length of the completions trained on"),
        "completions/min_length": ("tokens", "length of the shortest one"),
        "completions/p{percent}_length": ("tokens", "percentiles of the lengths: 10, 50, 90 and 95"),
        "completions/terminated_mean_length": ("tokens", "mean length of the completions that were not cut"),
        "completions/truncated_fraction": ("share of completions", "completions cut at the length limit"),
        "policy/versions_mixed_fraction": (
            "share of completions",
            "completions begun by one version of the policy and ended by another",
        ),
        "reward/source/{name}": ("reward", "mean raw reward of the completions of one dataset or data_source"),
        "time/at": ("s", "when the record was written, since 1970"),
        "time/wall": ("s", "how long the run took so far; without the time between its end and a resume"),
        "total/completions": ("completions", "completions of all steps of the run so far, scored or not"),
        "total/tokens": ("tokens", "tokens of these completions"),
    }
)

LENGTH_PERCENTILES = (10, 50, 90, 95)


def completion_metrics(items: Sequence[ScoredRollout]) -> dict[str, float]:
    """``completions/*``, ``reward/source/*`` and ``policy/versions_mixed_fraction`` of n ≥ 1 completions."""
    lengths = np.array([len(item.token_ids) for item in items], dtype=np.float64)
    truncated = np.array([item.truncated for item in items], dtype=np.bool_)
    metrics = {
        "completions/mean_length": float(lengths.mean()),
        "completions/min_length": float(lengths.min()),
        "completions/max_length": float(lengths.max()),
        "completions/truncated_fraction": float(truncated.mean()),
        "policy/versions_mixed_fraction": float(
            np.mean([item.oldest_version != item.newest_version for item in items])
        ),
    }
    for percent, value in zip(LENGTH_PERCENTILES, np.percentile(lengths, LENGTH_PERCENTILES), strict=True):
        metrics[f"completions/p{percent}_length"] = float(value)
    if not truncated.all():
        metrics["completions/terminated_mean_length"] = float(lengths[~truncated].mean())
    rewards: dict[str, list[float]] = {}
    for item in items:
        rewards.setdefault(item.prompt.source, []).append(item.reward)
    return metrics | {f"reward/source/{name}": float(np.mean(given)) for name, given in rewards.items() if name}


class RunTotals:
    """What a run has come to, its earlier parts included.

    Args:
        before: the last value of each metric in the records that a resumed run keeps; {} for a new one.
        started: when this part of the run began, on the clock of ``time.monotonic``.
    """

    def __init__(self, before: Mapping[str, float], *, started: float) -> None:
        self._wall = before.get("time/wall", 0.0)
        self._completions = before.get("total/completions", 0.0)
        self._tokens = before.get("total/tokens", 0.0)
        self._started = started

    def times(self) -> dict[str, float]:
        """``time/wall`` and ``time/at``, for every record."""
        return {"time/wall": self._wall + time.monotonic() - self._started, "time/at": time.time()}

    def add(self, rollouts: StepRollouts) -> dict[str, float]:
        """``total/*`` with the completions of one more step."""
        held: list[Completion] = [*rollouts.trainable, *rollouts.unscored, *rollouts.baseline_only]
        self._completions += len(held)
        self._tokens += sum(len(item.token_ids) for item in held)
        return {"total/completions": self._completions, "total/tokens": self._tokens}
