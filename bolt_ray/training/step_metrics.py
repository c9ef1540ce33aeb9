"""Time, speed and replaced processes of one step, from running totals before and after it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.training.completions import CompletionService

declare_metrics(
    {
        "reward/scorer_restarts": ("scorers", "scorers replaced during the step"),
        "rollout/generator_replacements": ("generators", "generators replaced during the step"),
        "time/step": ("s", "the whole step"),
        "time/generate": ("s", "generators had something to do"),
        "time/score": ("s", "scorers had something to do"),
        "time/train": ("s", "the learner's pass"),
        "time/sync": ("s", "weight sync and its check"),
        "time/baseline": ("s", "commit to the baseline"),
        "time/curriculum": ("s", "observing, and drawing the next window when due"),
        "time/idle_generator": ("s", "the generators waited"),
        "time/idle_trainer": ("s", "the learner waited"),
        "throughput/tokens_per_second": ("tokens/s", "tokens generated during the step"),
        "throughput/samples_per_second": ("completions/s", "completions trained on"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceTotals:
    """Running totals of the completion service at one moment."""

    clock: float
    generating: float
    scoring: float
    tokens: int
    generator_replacements: int
    scorer_restarts: int

    @classmethod
    def of(cls, service: CompletionService) -> ServiceTotals:
        return cls(
            clock=time.perf_counter(),
            generating=service.generating_clock.seconds,
            scoring=service.scoring_clock.seconds,
            tokens=service.generated_tokens,
            generator_replacements=service.generator_replacements,
            scorer_restarts=service.scorer_restarts,
        )


def step_metrics(
    before: ServiceTotals, after: ServiceTotals, phases: Mapping[str, float], *, num_sequences: int
) -> dict[str, float]:
    """``time/*``, ``throughput/*`` and processes replaced; generators and scorers may be busy beyond the step.

    Args:
        phases: seconds of the driver's phases, by name.
        num_sequences: completions trained in the step.
    """
    step = after.clock - before.clock
    generate = min(step, after.generating - before.generating)
    return {
        "rollout/generator_replacements": float(after.generator_replacements - before.generator_replacements),
        "reward/scorer_restarts": float(after.scorer_restarts - before.scorer_restarts),
        "time/step": step,
        "time/generate": generate,
        "time/idle_generator": step - generate,
        "time/score": min(step, after.scoring - before.scoring),
        "time/train": phases.get("train", 0.0),
        "time/idle_trainer": step - phases.get("train", 0.0),
        "time/sync": phases.get("sync", 0.0),
        "time/baseline": phases.get("baseline", 0.0),
        "time/curriculum": phases.get("curriculum", 0.0),
        "throughput/tokens_per_second": (after.tokens - before.tokens) / step,
        "throughput/samples_per_second": num_sequences / step,
    }
