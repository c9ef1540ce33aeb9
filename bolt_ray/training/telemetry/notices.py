"""What a run says in words while it trains: each thing once, with the metric that follows it from there on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from bolt_ray.core.advantages import AdvantageOutput
from bolt_ray.core.records import UnscoredReason
from bolt_ray.rewards.unscored import unscored_metric, without_detail
from bolt_ray.training.batch import BatchBuilder
from bolt_ray.training.rollout import StepRollouts

FAR_FROM_REFERENCE = 1.0
"""Nats per token of KL to the reference beyond which completions of the two have little in common."""
LATE_STEPS = 20
"""So many steps in a row whose prompts are visited too seldom for their evidence to last."""


class Notices:
    """Reads each step and says what is worth a sentence.

    Args:
        say: prints a line.
        builder: how completions become a batch.
        forgets_after: policy versions over which evidence fades where it fades by version (``forgetting: event``).
        kl_per_sequence: whether ``adaptive_kl/raw_kl`` is a sum over a sequence (``kl.unit``).
    """

    def __init__(
        self,
        *,
        say: Callable[[str], None],
        builder: BatchBuilder,
        forgets_after: float = math.inf,
        kl_per_sequence: bool = False,
    ) -> None:
        self._say = say
        self._builder = builder
        self._forgets_after = forgets_after
        self._late_steps = 0
        self._kl_per_sequence = kl_per_sequence
        self._said: set[str | UnscoredReason] = set()

    def of_unscored(self, rollouts: StepRollouts, reasons: Mapping[UnscoredReason, int]) -> None:
        """``reasons``: how many completions got no verdict, by why."""
        for kind, count in reasons.items():
            example = next(item.reason for item in rollouts.unscored if without_detail(item.reason) == kind)
            self._once(
                kind,
                f"Warning: {count} of this step's completions could not be scored and are left out: {example} "
                f"(metric {unscored_metric(kind)} counts them from here on)",
            )

    def of_batch(self, advantages: AdvantageOutput, record: Mapping[str, float]) -> None:
        """What rewards, groups and v̂ of a step say; ``record`` has its metrics."""
        if advantages.singletons:
            self._once(
                "singletons",
                f"{advantages.singletons} of this step's completions are alone in their group; their advantage is "
                "reward - v̂ (metric advantage/singletons counts them from here on)",
            )
        if record.get("reward/clipped_fraction", 0.0) > 0.0:
            low, high = self._builder.reward_range
            self._once(
                "clipped",
                f"Warning: {record['reward/clipped_fraction']:.0%} of this step's rewards lie outside "
                f"{low:g} to {high:g}, and v̂ sees them cut; set baseline.reward_range to what your rewards give "
                "(metric reward/clipped_fraction)",
            )
        gap = record.get("baseline/versions_between_visits", 0.0)
        self._late_steps = self._late_steps + 1 if gap > self._forgets_after else 0
        if self._late_steps == LATE_STEPS:
            self._once(
                "forgetting",
                f"Warning: prompts are visited about every {gap:.0f} versions, and forgetting: event loses what is "
                f"older than {self._forgets_after:.0f}: v̂ is little more than the last outcome. Use "
                "baseline.forgetting=kl, or raise baseline.rho_min (metric baseline/versions_between_visits)",
            )

    def of_update(self, record: Mapping[str, float]) -> None:
        """What the learner's metrics of a step say."""
        kl = record.get("adaptive_kl/raw_kl", 0.0)
        if self._kl_per_sequence:
            kl /= max(record.get("completions/mean_length", 1.0), 1.0)
        if kl > FAR_FROM_REFERENCE:
            self._once(
                "kl",
                f"Warning: the policy is {kl:.1f} nats per token away from the reference, where the pull back is weak "
                "and noisy: raise kl.coef or lower train.learning_rate (metric adaptive_kl/raw_kl)",
            )

    def _once(self, what: str | UnscoredReason, text: str) -> None:
        if what not in self._said:
            self._said.add(what)
            self._say(text)
