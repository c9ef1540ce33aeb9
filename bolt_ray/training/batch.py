"""One step's scored completions as the learner's batch, the baseline's outcomes and the step's metrics."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.advantages import CENTERED, AdvantageOptions, AdvantageOutput, advantages_of, scale_rewards
from bolt_ray.core.curriculum.curriculum import shares_by_tenth
from bolt_ray.core.diversity import diversity
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import AdvantageInputs, Outcomes, ScoredRollout, TrainingBatch
from bolt_ray.rewards.unscored import count_reasons, unscored_metric
from bolt_ray.training.baseline_quality import quality_metrics
from bolt_ray.training.common_answer import common_answer
from bolt_ray.training.completion_metrics import completion_metrics
from bolt_ray.training.rollout import StepRollouts

declare_metrics(
    {
        "reward/mean": ("reward", "mean raw reward of the step's scored completions"),
        "reward/std": ("reward", "standard deviation of those rewards"),
        "reward/clipped_fraction": (
            "share of completions",
            "completions whose reward without shaping lies outside baseline.reward_range, where v̂ sees it cut",
        ),
        "reward/diversity": (
            "share",
            "mean share of a completion's runs of four tokens that another one lacks; with advantage.diversity_bonus",
        ),
        "reward/part/{name}": ("reward", "mean value of one reward, before its weight"),
        "reward/metric/{name}": ("", "mean of a number that a reward function gave beside its value"),
        "reward/unscored_fraction": ("share of completions", "completions no reward could be given to"),
        "policy/staleness_mean": ("versions", "mean age of the completions' oldest token in policy versions"),
        "policy/staleness_max": ("versions", "age of the oldest"),
        "curriculum/drawn_uncertainty": (
            "",
            "mean of √(v̂(1 − v̂)) over the step's completions: how open the prompts drawn were",
        ),
        "curriculum/draw_ess": (
            "share",
            "(Σf)²/(n Σf²) over the step's completions, f = 1/w, w how often a prompt is drawn over how often uniform "
            "draws would: what curriculum.importance 1 would leave of them",
        ),
        "curriculum/drawn_{i}": (
            "share of completions",
            "of the step, whose prompt's v̂ lay in the i-th tenth when it was dispatched",
        ),
        "rollout/stale_dropped": (
            "completions",
            "completions left out of training because they were older than rollout.max_staleness",
        ),
        "rollout/refilled": (
            "completions",
            "completions generated in place of groups without variance (rollout.dynamic_sampling)",
        ),
        "rollout/completions": ("completions", "completions of the step, scored or not"),
    }
)

MAX_IMPORTANCE = 10.0
"""Largest factor of `curriculum.importance`: a prompt hardly ever drawn must not be the whole step when it is."""

_ROUNDING = 1e-9
"""Weighted sums that differ by less are equal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchBuilder:
    """How completions become a batch; what it needs of ``advantage``, ``baseline``, ``curriculum`` and ``loss``."""

    advantage: AdvantageOptions
    reward_range: tuple[float, float]
    mask_truncated: bool
    skip_truncated_evidence: bool
    importance: float

    def build(self, rollouts: StepRollouts, *, step: int) -> tuple[TrainingBatch, AdvantageOutput]:
        """The batch of ``step``; sequences in the order of their requests."""
        items = rollouts.trainable
        lengths = np.array([len(item.token_ids) for item in items], dtype=np.int32)
        active = np.array([self._is_active(item) for item in items], dtype=np.bool_)
        rewards = self._advantage_rewards(items)
        extra: dict[str, float] = {}
        if self.advantage.diversity_bonus:
            found = self._diversity(items)
            rewards = rewards + self.advantage.diversity_bonus * self.scaled(items) * found
            extra["reward/diversity"] = float(found.mean())
        inputs = AdvantageInputs(
            rewards=rewards,
            v_hat=np.array([item.v_hat for item in items], dtype=np.float64),
            n_eff=np.array([item.n_eff for item in items], dtype=np.float64),
            group_ids=np.array([item.group_id for item in items], dtype=np.int64),
            factors=self._factors(items),
        )
        output = advantages_of(inputs, lengths, options=self.advantage, active=active)
        output = replace(output, metrics=output.metrics | extra)
        tokens = [part for item in items for part in (item.prompt_token_ids, item.token_ids)]
        batch = TrainingBatch(
            step=step,
            token_ids=np.concatenate(tokens).astype(np.int32),
            prompt_lengths=np.array([len(item.prompt_token_ids) for item in items], dtype=np.int32),
            completion_lengths=lengths,
            behavior_logprobs=np.concatenate([item.logprobs for item in items]).astype(np.float32),
            advantages=output.advantages,
            active=active,
            rewards=np.array([item.reward for item in items], dtype=np.float32),
            advantage_inputs=inputs,
        )
        return batch, output

    def outcomes(self, rollouts: StepRollouts) -> Outcomes:
        """What the baseline learns from a step: everything that was scored, trained or not."""
        sums: Counter[tuple[str, int]] = Counter()
        counts: Counter[tuple[str, int]] = Counter()
        items = [
            item
            for item in (*rollouts.trainable, *rollouts.baseline_only)
            if not (item.truncated and self.skip_truncated_evidence)
        ]
        for item, scaled in zip(items, self.scaled(items).tolist(), strict=True):
            entry = (item.prompt.key, item.oldest_version)
            sums[entry] += scaled
            counts[entry] += 1
        entries = list(counts)
        return Outcomes(
            keys=tuple(key for key, _ in entries),
            reward_sums=np.array([sums[entry] for entry in entries], dtype=np.float64),
            counts=np.array([counts[entry] for entry in entries], dtype=np.int64),
            versions=np.array([version for _, version in entries], dtype=np.int64),
        )

    def metrics(self, rollouts: StepRollouts, output: AdvantageOutput, *, version: int) -> dict[str, float]:
        """``reward/*``, ``completions/*``, ``policy/staleness_*`` and the baseline's quality at dispatch."""
        items = rollouts.trainable
        rewards = np.array([item.reward for item in items])
        v_hat = np.array([item.v_hat for item in items])
        ages = np.array([version - item.oldest_version for item in items])
        scaled = self.scaled(items)
        uncut = scale_rewards(_earned(items), *self.reward_range, bounded=False)
        held = len(items) + len(rollouts.unscored)
        metrics = {
            "reward/mean": float(rewards.mean()),
            "reward/std": float(rewards.std()),
            "reward/clipped_fraction": float(np.mean(np.abs(uncut - scaled) > _ROUNDING)),
            "reward/unscored_fraction": len(rollouts.unscored) / held,
            **completion_metrics(items),
            "policy/staleness_mean": float(ages.mean()),
            "policy/staleness_max": float(ages.max()),
            **quality_metrics(items, scaled, version=version),
            **common_answer(items),
            "curriculum/drawn_uncertainty": float(np.sqrt(v_hat * (1.0 - v_hat)).mean()),
            **{f"curriculum/drawn_{i}": share for i, share in enumerate(shares_by_tenth(v_hat))},
            "curriculum/draw_ess": _effective_share(np.array([item.draw_weight for item in items])),
            "rollout/stale_dropped": float(sum(item.reason == "stale" for item in rollouts.dropped)),
            "rollout/refilled": float(rollouts.refilled),
            "rollout/completions": float(held),
        }
        metrics |= {f"reward/part/{name}": mean for name, mean in _means([item.parts for item in items])}
        metrics |= {f"reward/metric/{name}": mean for name, mean in _means([item.metrics for item in items])}
        for reason, count in count_reasons(item.reason for item in rollouts.unscored).items():
            metrics[unscored_metric(reason)] = float(count)
        metrics |= output.metrics
        # A metric that is undefined in this step (variance reduction of equal rewards) is left out: JSON has no NaN.
        return {key: value for key, value in metrics.items() if math.isfinite(value)}

    def scaled(self, items: Sequence[ScoredRollout]) -> NDArray[np.float64]:
        """r̃ of completions, float64 [n], without shaping."""
        return scale_rewards(_earned(items), *self.reward_range)

    def _advantage_rewards(self, items: Sequence[ScoredRollout]) -> NDArray[np.float64]:
        """r̃ plus the shaping parts on the same scale: these change the advantage and never the baseline."""
        low, high = self.reward_range
        shaping = np.array([item.reward - item.tracker_reward for item in items], dtype=np.float64)
        scaled = scale_rewards(_earned(items), low, high, bounded=self.advantage.baseline not in CENTERED)
        return scaled + shaping / (high - low)

    def _diversity(self, items: Sequence[ScoredRollout]) -> NDArray[np.float64]:
        """How far each completion differs from the others of the step, or of its prompt; float64 [n] in [0, 1]."""
        whole = self.advantage.diversity_within == "step"
        groups = np.array([0 if whole else item.group_id for item in items], dtype=np.int64)
        return diversity([item.token_ids for item in items], groups)

    def _factors(self, items: Sequence[ScoredRollout]) -> NDArray[np.float64] | None:
        """w^-κ, w how often a prompt is drawn over how often uniform draws would; None for κ = 0."""
        if self.importance == 0.0:
            return None
        weights = np.array([item.draw_weight for item in items], dtype=np.float64)
        factors: NDArray[np.float64] = np.minimum(weights**-self.importance, MAX_IMPORTANCE)
        return factors

    def _is_active(self, item: ScoredRollout) -> bool:
        return len(item.token_ids) > 0 and not (self.mask_truncated and item.truncated)


def _earned(items: Sequence[ScoredRollout]) -> NDArray[np.float64]:
    """Raw rewards without shaping, float64 [n]."""
    return np.array([item.tracker_reward for item in items], dtype=np.float64)


def _means(tables: Sequence[Mapping[str, float]]) -> list[tuple[str, float]]:
    """Each name's mean over the tables that have it."""
    names = sorted({name for table in tables for name in table})
    return [(name, float(np.mean([table[name] for table in tables if name in table]))) for name in names]


def _effective_share(weights: NDArray[np.float64]) -> float:
    factors = 1.0 / weights
    return float(factors.sum() ** 2 / (factors.size * (factors**2).sum()))
