"""Correcting for tokens that another policy sampled: weights e^Δ, Δ = log π_old − log π_generator.

The generator's numerics differ from the learner's, and its weights may be older. Two ways to account for it,
and only one of them at a time:

- π_old := π_generator. The loss's own ratio r = π/π_generator already carries the difference and the clip
  bounds it. Nothing more may be multiplied.
- π_old recomputed by the learner before its first update. r then measures only the learner's own movement,
  and the weight e^Δ carries the rest.

``old_policy`` makes that choice in one place and returns the two tensors that belong together, so that the
difference cannot be counted twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bolt_ray.core.correction_options import CorrectionOptions
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.sequence_sums import MAX_EXPONENT, at_least_float32, require_shape, segment_lengths, segment_sum

declare_metrics(
    {
        "correction/ess": (
            "share",
            "effective sample size of the correction's weights as applied, (Σw)²/(n Σw²), over tokens or sequences",
        ),
        "correction/over_cap_fraction": ("share", "of the weights, those above correction.cap: cut, or masked"),
        "correction/under_floor_fraction": ("share", "of the weights, those below correction.floor: masked"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """Weights for the policy term, and what to report.

    Attributes:
        weights: float [T], detached, 0 at masked tokens; None with mode "none".
        metrics: detached scalars that may be added over micro-batches and ranks, for
            ``summarize_correction``.
    """

    weights: Tensor | None
    metrics: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class OldPolicy:
    """What the loss divides by and multiplies with; the two belong together.

    Attributes:
        logprobs: float [T], ``old_logprobs`` of the loss.
        correction: its ``correction_weights`` and their metrics; None if there is nothing to correct.
    """

    logprobs: Tensor
    correction: Correction | None


def old_policy(
    generator_logprobs: Tensor,
    recomputed_logprobs: Tensor | None,
    *,
    sequence_ids: Tensor,
    num_sequences: int,
    options: CorrectionOptions,
    mask: Tensor | None = None,
) -> OldPolicy:
    """π_old and the weights that go with it.

    Args:
        generator_logprobs: float [T], the engine's own.
        recomputed_logprobs: float [T], the learner's before its first update on this batch; None if it did
            not recompute them, and then π_old is the generator and there are no weights.

    The rest as in ``correction_weights``.
    """
    if recomputed_logprobs is None:
        return OldPolicy(logprobs=generator_logprobs.detach(), correction=None)
    correction = correction_weights(
        recomputed_logprobs,
        generator_logprobs,
        sequence_ids=sequence_ids,
        num_sequences=num_sequences,
        options=options,
        mask=mask,
    )
    return OldPolicy(logprobs=recomputed_logprobs.detach(), correction=correction)


def correction_weights(
    old_logprobs: Tensor,
    generator_logprobs: Tensor,
    *,
    sequence_ids: Tensor,
    num_sequences: int,
    options: CorrectionOptions,
    mask: Tensor | None = None,
) -> Correction:
    """Detached weights of a packed batch.

    Both log-probs must be of the distribution that was sampled from (same temperature, top-p and top-k).

    Args:
        old_logprobs, generator_logprobs: float [T].
        sequence_ids: int64 [T], 0 … num_sequences-1; sequences are whole.
        mask: bool [T]; None counts every token.

    Raises:
        ValueError: tensors of different shapes.
    """
    require_shape("generator_logprobs", generator_logprobs, old_logprobs.shape)
    require_shape("sequence_ids", sequence_ids, old_logprobs.shape)
    active = torch.ones_like(sequence_ids, dtype=torch.bool) if mask is None else mask.bool()
    require_shape("mask", active, old_logprobs.shape)

    ids = sequence_ids[active]
    delta = at_least_float32(old_logprobs.detach())[active] - at_least_float32(generator_logprobs.detach())[active]
    lengths = segment_lengths(ids, num_sequences)
    per_unit = delta if options.level == "token" else segment_sum(delta, ids, num_sequences)
    if options.level == "geometric":
        per_unit = per_unit / lengths.clamp(min=1)
    ratio = torch.exp(per_unit.clamp(max=MAX_EXPONENT))
    over, under = ratio > options.cap, ratio < options.floor
    if options.mode == "truncate":
        ratio = ratio.clamp(max=options.cap)
    elif options.mode == "mask":
        ratio = ratio.masked_fill(over | under, 0.0)

    if options.level == "token":
        present = torch.ones_like(ratio, dtype=torch.bool)
        per_token = ratio
    else:
        present = lengths > 0
        per_token = ratio[ids]
    metrics = {
        "correction_units": present.sum().to(ratio.dtype),
        "correction_over_cap": (over & present).sum().to(ratio.dtype),
        "correction_under_floor": (under & present).sum().to(ratio.dtype),
        "correction_weight_sum": ratio[present].sum(),
        "correction_weight_sq_sum": ratio[present].square().sum(),
    }
    if options.mode == "none":
        return Correction(weights=None, metrics=metrics)
    weights = per_token.new_zeros(old_logprobs.shape)
    weights[active] = per_token
    return Correction(weights=weights, metrics=metrics)


def summarize_correction(sums: Mapping[str, float]) -> dict[str, float]:
    """Totals over a step to logged numbers; {} without a token.

    ``correction/ess`` is (Σw)²/(n Σw²) of the weights as applied (of e^Δ with mode "none"), over tokens or
    sequences after the level; 1 when generator and learner agree.
    """
    if sums.get("correction_units", 0.0) == 0.0:
        return {}
    units, square = sums["correction_units"], sums["correction_weight_sq_sum"]
    return {
        "correction/ess": sums["correction_weight_sum"] ** 2 / (units * square) if square > 0 else 0.0,
        "correction/over_cap_fraction": sums["correction_over_cap"] / units,
        "correction/under_floor_fraction": sums["correction_under_floor"] / units,
    }
