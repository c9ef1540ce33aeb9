"""The one computation behind the padded and the packed policy loss: policy term + β·KL + entropy bonus."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bolt_ray.core.kl import KLOptions, kl_terms
from bolt_ray.core.losses.aggregation import Denominators, token_weights
from bolt_ray.core.losses.metrics import SUM_KEYS, ratio_sums
from bolt_ray.core.losses.options import LossOptions
from bolt_ray.core.losses.registry import loss_type
from bolt_ray.core.losses.surrogates import SurrogateInput, surrogate
from bolt_ray.core.sequence_sums import segment_lengths, segment_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOutput:
    """A loss to call ``backward`` on, and what to report.

    Attributes:
        loss: scalar with gradient; 0 with a gradient path when nothing is active.
        metrics: detached scalars that may be added over micro-batches and ranks, keys ``metrics.SUM_KEYS``;
            ``metrics.summarize`` turns the totals into logged numbers.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveTokens:
    """What is left of a batch without its masked tokens: tensors [T], advantages [S]."""

    logprobs: Tensor
    old_logprobs: Tensor
    advantages: Tensor
    sequence_ids: Tensor
    entropy: Tensor | None
    selected: Tensor | None
    weights: Tensor | None
    ref_logprobs: Tensor | None


def loss_of_active_tokens(
    batch: ActiveTokens,
    *,
    options: LossOptions,
    kl_coef: float,
    kl_options: KLOptions,
    denominators: Denominators | None,
) -> LossOutput:
    """See ``policy.policy_loss``; every tensor here holds active tokens only."""
    num_sequences = batch.advantages.shape[0]
    lengths = segment_lengths(batch.sequence_ids, num_sequences)
    local = _local_counts(batch, lengths)
    # bnpo is defined on the micro-batch alone: whatever the whole step holds, its own counts divide it.
    local_mean = options.resolved_aggregation == "local_token_mean"
    counts = local if denominators is None or local_mean else denominators
    weights = token_weights(
        options.resolved_aggregation,
        sequence_ids=batch.sequence_ids,
        lengths=lengths,
        denominators=counts,
        max_completion_tokens=options.max_completion_tokens,
        dtype=batch.logprobs.dtype,
    )

    log_ratio = batch.logprobs - batch.old_logprobs
    per_token, clipped = surrogate(
        SurrogateInput(
            logprobs=batch.logprobs,
            log_ratio=log_ratio,
            advantages=batch.advantages[batch.sequence_ids],
            sequence_ids=batch.sequence_ids,
            num_sequences=num_sequences,
        ),
        options,
    )
    if batch.selected is not None:
        per_token = per_token * batch.selected
    if batch.weights is not None:
        per_token = per_token * batch.weights
    loss = policy = (weights * per_token).sum()
    sums = {key: policy.new_zeros(()).detach() for key in SUM_KEYS} | ratio_sums(log_ratio)
    sums["policy_loss"] = policy.detach()
    sums["active_tokens"] = policy.new_tensor(local.active_tokens)
    sums["active_sequences"] = policy.new_tensor(local.active_sequences)
    sums["clipped_tokens"] = clipped.sum().to(policy.dtype)
    moved = log_ratio.detach()
    if loss_type(options.type).per_sequence:
        moved = segment_mean(moved, batch.sequence_ids, num_sequences)[batch.sequence_ids]
    sums["clipped_high_tokens"] = (clipped & (moved > 0)).sum().to(policy.dtype)
    sums["local_batches"] = policy.new_tensor(float(local_mean))

    if batch.ref_logprobs is not None:
        loss = loss + _kl_part(batch, log_ratio, lengths, weights, counts, kl_coef, kl_options, sums)
    elif kl_coef != 0.0 and kl_options.placement == "loss":
        raise ValueError(f"kl_coef is {kl_coef} but there are no ref_logprobs")
    if batch.entropy is not None:
        loss = loss + _entropy_part(batch, counts, options.entropy_coef, sums)
    elif options.entropy_coef != 0.0:
        raise ValueError(f"entropy_coef is {options.entropy_coef} but there is no entropy")
    return LossOutput(loss=loss * counts.scale, metrics=sums)


def _kl_part(
    batch: ActiveTokens,
    log_ratio: Tensor,
    lengths: Tensor,
    weights: Tensor,
    counts: Denominators,
    coef: float,
    options: KLOptions,
    sums: dict[str, Tensor],
) -> Tensor:
    """β·KL, aggregated like the policy term (token unit) or as a mean over sequences (sequence unit)."""
    assert batch.ref_logprobs is not None
    terms = kl_terms(
        batch.logprobs,
        batch.ref_logprobs,
        log_ratio=log_ratio,
        sequence_ids=batch.sequence_ids,
        num_sequences=lengths.shape[0],
        options=options,
    )
    sums["raw_kl_sum"] = terms.raw.sum()
    sums["raw_kl_count"] = sums["active_sequences"] if terms.raw_unit == "sequence" else sums["active_tokens"]
    sums["adapted_kl_count"] = sums["active_sequences"] if terms.unit == "sequence" else sums["active_tokens"]
    if terms.unit == "sequence":
        present = (lengths > 0).to(terms.adapted.dtype)  # the sum of no token is 0, but a shape may raise it
        weights = present / max(counts.active_sequences, 1.0)
        sums["adapted_kl_sum"] = (terms.adapted.detach() * present).sum()
    else:
        sums["adapted_kl_sum"] = terms.adapted.detach().sum()
    if coef == 0.0 or options.placement == "reward":
        return sums["kl_loss"]
    term = coef * (weights * terms.adapted).sum()
    sums["kl_loss"] = term.detach()
    return term


def _entropy_part(batch: ActiveTokens, counts: Denominators, coef: float, sums: dict[str, Tensor]) -> Tensor:
    """−c·ΣH·M/ΣM, over the top-entropy tokens where there is such a mask."""
    assert batch.entropy is not None
    sums["entropy_sum"] = batch.entropy.detach().sum()
    sums["entropy_count"] = sums["active_tokens"]
    if coef == 0.0:
        return sums["entropy_loss"]
    entropy, total = batch.entropy, counts.active_tokens
    if batch.selected is not None:
        if counts.selected_tokens is None:
            raise ValueError("an entropy bonus on top-entropy tokens needs Denominators.selected_tokens")
        entropy, total = entropy * batch.selected, counts.selected_tokens
    term = -coef * entropy.sum() / max(total, 1.0)
    sums["entropy_loss"] = term.detach()
    return term


def _local_counts(batch: ActiveTokens, lengths: Tensor) -> Denominators:
    return Denominators(
        active_tokens=float(batch.sequence_ids.numel()),
        active_sequences=float((lengths > 0).sum()),
        selected_tokens=None if batch.selected is None else float(batch.selected.sum()),
    )
