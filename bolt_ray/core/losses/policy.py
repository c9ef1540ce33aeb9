"""The policy loss, on padded [B, T] and on packed [T] batches.

    padded ─┐
            ├─ active tokens only ─▶ policy term + β·KL + entropy bonus ─▶ LossOutput
    packed ─┘

Both entries drop the masked tokens first, so what padding contains (NaN, −inf) cannot reach the loss, and
there is one computation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bolt_ray.core.kl import KLOptions
from bolt_ray.core.losses.aggregation import Denominators
from bolt_ray.core.losses.loss import ActiveTokens, LossOutput, loss_of_active_tokens
from bolt_ray.core.losses.options import LossOptions
from bolt_ray.core.sequence_sums import at_least_float32, require_shape


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    entropy: Tensor | None = None,
    top_entropy_mask: Tensor | None = None,
    correction_weights: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    kl_options: KLOptions | None = None,
    truncated: Tensor | None = None,
    denominators: Denominators | None = None,
    **options: Any,
) -> LossOutput:
    """Policy loss of a padded batch.

    Args:
        logprobs: float [B, T], log π of each token, with gradient.
        old_logprobs: float [B, T], log π_old.
        advantages: float [B].
        mask: bool or 0/1 [B, T], tokens that are trained.
        entropy: float [B, T], entropy of the policy at each token, with gradient; for the bonus.
        top_entropy_mask: bool [B, T], limits policy term and entropy bonus to these tokens; the denominators
            of the policy term stay those of ``mask``, and the KL term keeps every token.
        correction_weights: float [B, T], from ``core.corrections``; detached, multiplies only the
            policy term.
        ref_logprobs: float [B, T], log π_ref; without ``kl_coef`` it is only measured.
        kl_coef: β; ignored (measured only) where ``kl_options.placement`` is "reward".
        kl_options: estimator and adaptive shape; None for the defaults.
        truncated: bool [B], overlong mask: these sequences are out of the loss and of every denominator.
        denominators: counts over the whole step; None takes those of this batch.
        options: fields of ``LossOptions`` by name.

    Raises:
        ValueError: impossible options, a tensor of a wrong shape, or one that an option needs is missing.
    """
    if logprobs.dim() != 2:
        raise ValueError(f"logprobs must be [B, T], got shape {tuple(logprobs.shape)}")
    require_shape("mask", mask, logprobs.shape)
    num_sequences, width = logprobs.shape
    rows = torch.arange(num_sequences, device=logprobs.device).repeat_interleave(width)

    def flat(values: Tensor | None, name: str) -> Tensor | None:
        if values is None:
            return None
        require_shape(name, values, logprobs.shape)
        return values.reshape(-1)

    require_shape("old_logprobs", old_logprobs, logprobs.shape)
    return policy_loss_packed(
        logprobs.reshape(-1),
        old_logprobs.reshape(-1),
        advantages,
        rows,
        mask.reshape(-1),
        options=LossOptions(**options),
        entropy=flat(entropy, "entropy"),
        top_entropy_mask=flat(top_entropy_mask, "top_entropy_mask"),
        correction_weights=flat(correction_weights, "correction_weights"),
        ref_logprobs=flat(ref_logprobs, "ref_logprobs"),
        kl_coef=kl_coef,
        kl_options=kl_options,
        truncated=truncated,
        denominators=denominators,
    )


def policy_loss_packed(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    sequence_ids: Tensor,
    mask: Tensor | None = None,
    *,
    options: LossOptions,
    entropy: Tensor | None = None,
    top_entropy_mask: Tensor | None = None,
    correction_weights: Tensor | None = None,
    ref_logprobs: Tensor | None = None,
    kl_coef: float = 0.0,
    kl_options: KLOptions | None = None,
    truncated: Tensor | None = None,
    denominators: Denominators | None = None,
) -> LossOutput:
    """Policy loss of a packed batch: tokens [T] of whole sequences, in any order.

    Args:
        logprobs, old_logprobs, entropy, top_entropy_mask, correction_weights, ref_logprobs: [T].
        advantages: float [S], one per sequence of this micro-batch.
        sequence_ids: int64 [T], 0 … S-1.
        mask: bool or 0/1 [T]; None trains every token.
        truncated: bool [S].

    The rest, and errors, as in ``policy_loss``.
    """
    _check_shapes(
        logprobs,
        advantages,
        sequence_ids,
        truncated,
        tokens={
            "old_logprobs": old_logprobs,
            "sequence_ids": sequence_ids,
            "mask": mask,
            "entropy": entropy,
            "top_entropy_mask": top_entropy_mask,
            "correction_weights": correction_weights,
            "ref_logprobs": ref_logprobs,
        },
    )
    active = torch.ones_like(sequence_ids, dtype=torch.bool) if mask is None else mask.bool()
    if truncated is not None:
        active = active & ~truncated.bool()[sequence_ids]

    batch = ActiveTokens(
        logprobs=at_least_float32(logprobs[active]),
        old_logprobs=at_least_float32(old_logprobs.detach()[active]),
        advantages=at_least_float32(advantages.detach()),
        sequence_ids=sequence_ids[active],
        entropy=None if entropy is None else at_least_float32(entropy[active]),
        selected=None if top_entropy_mask is None else top_entropy_mask.bool()[active],
        weights=None if correction_weights is None else correction_weights.detach()[active],
        ref_logprobs=None if ref_logprobs is None else at_least_float32(ref_logprobs.detach()[active]),
    )
    return loss_of_active_tokens(
        batch,
        options=options,
        kl_coef=kl_coef,
        kl_options=kl_options or KLOptions(),
        denominators=denominators,
    )


def _check_shapes(
    logprobs: Tensor,
    advantages: Tensor,
    sequence_ids: Tensor,
    truncated: Tensor | None,
    *,
    tokens: dict[str, Tensor | None],
) -> None:
    if logprobs.dim() != 1 or advantages.dim() != 1:
        raise ValueError(
            f"expected flat logprobs and advantages [sequences], got shapes {tuple(logprobs.shape)} and "
            f"{tuple(advantages.shape)}"
        )
    for name, values in tokens.items():
        if values is not None:
            require_shape(name, values, logprobs.shape)
    if truncated is not None:
        require_shape("truncated", truncated, advantages.shape)
    if sequence_ids.numel() and not 0 <= int(sequence_ids.min()) <= int(sequence_ids.max()) < len(advantages):
        raise ValueError(f"sequence_ids must lie in 0 … {len(advantages) - 1}")
