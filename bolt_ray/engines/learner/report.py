"""What a training step reports, and the error that ends a run after too many non-finite steps."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from bolt_ray.core.errors import UnhealthyTrainingError
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.engines.learner.checkpoint import Counters
from bolt_ray.engines.learner.step import BatchOutcome

declare_metrics(
    {
        "optim/learning_rate": ("", "learning rate of the step"),
        "optim/updates": ("updates", "optimizer updates of the step"),
        "optim/bad_steps_in_a_row": ("steps", "non-finite steps in a row up to this one"),
        "optim/bad_steps_total": ("steps", "non-finite steps so far"),
    }
)

log = logging.getLogger(__name__)

LARGE_GAP = 1.0
"""max |Δ log p| in nats above which generator and learner do not compute the same policy, whatever the dtype."""


def step_metrics(
    outcome: BatchOutcome, *, counters: Counters, learning_rate: float, controller: Mapping[str, float]
) -> dict[str, float]:
    """Means over the applied optimizer steps, the gap to the generator, the counters, and ``controller`` as it is."""
    keys = dict.fromkeys(key for metrics in outcome.metrics for key in metrics)
    means = {key: float(np.mean([metrics[key] for metrics in outcome.metrics if key in metrics])) for key in keys}
    counts = {
        "optim/learning_rate": learning_rate,
        "optim/updates": float(outcome.applied),
        "optim/bad_steps_in_a_row": float(counters.bad_in_a_row),
        "optim/bad_steps_total": float(counters.bad_total),
    }
    return means | outcome.gap | counts | dict(controller)


def count_bad(outcome: BatchOutcome, *, counters: Counters, step: int, max_bad_steps: int) -> None:
    """Count a batch that met a non-finite loss or gradient; any other one ends the row.

    Raises:
        UnhealthyTrainingError: it is the ``max_bad_steps``-th in a row.
    """
    if not outcome.bad:
        counters.bad_in_a_row = 0
        return
    counters.bad_in_a_row += 1
    counters.bad_total += 1
    count = counters.bad_in_a_row
    log.warning("step %d: non-finite loss or gradient, update skipped (%d in a row)", step, count)
    if count < max_bad_steps:
        return
    gap = outcome.gap.get("policy/logprob_gap_max", float("nan"))
    raise UnhealthyTrainingError(
        f"{count} steps in a row up to step {step} had a non-finite loss or gradient; the weights are those "
        f"before them. {diagnosis(gap)} Resume from a checkpoint with a smaller train.learning_rate or "
        f"train.max_grad_norm"
    )


def diagnosis(gap: float) -> str:
    """The likely cause of non-finite steps, from the largest |Δ log p| before the update (NaN: not known)."""
    if not np.isfinite(gap):
        return "The policy's own log-probs are not finite: its weights have diverged."
    if gap > LARGE_GAP:
        return (
            f"Learner and generator differ by up to {gap:.3g} in log-probability: their weights or sampling "
            "settings disagree."
        )
    return "The log-probs before the update are finite and agree with the generator's, so the backward pass overflows."
