"""The per-token policy losses. d = log π − log π_old, r = e^d, A the sequence's advantage; minimized."""

from __future__ import annotations

import torch
from torch import Tensor

from bolt_ray.core.losses.options import LossOptions
from bolt_ray.core.sequence_sums import MAX_EXPONENT, segment_mean


def surrogate(
    logprobs: Tensor,
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    sequence_ids: Tensor,
    num_sequences: int,
    options: LossOptions,
) -> tuple[Tensor, Tensor]:
    """Loss of every token, and whether clipping took its gradient away.

    Args:
        logprobs: float [T], log π with gradient.
        log_ratio: float [T], d.
        advantages: float [T], A of the token's sequence.
        sequence_ids: int64 [T].

    Returns:
        loss [T], clipped bool [T].
    """
    if options.type == "gspo":
        # One ratio per sequence, the geometric mean of its tokens' ratios (arXiv 2507.18071).
        log_ratio = segment_mean(log_ratio, sequence_ids, num_sequences)[sequence_ids]
    ratio = torch.exp(log_ratio.clamp(max=MAX_EXPONENT))
    if options.type == "cispo":
        return cispo(logprobs, ratio, advantages, cap=options.cispo_max)
    if options.type == "sapo":
        loss = sapo(ratio, advantages, options.sapo_temperature_pos, options.sapo_temperature_neg)
        return loss, torch.zeros_like(ratio, dtype=torch.bool)
    if options.type == "reinforce":
        return -advantages * logprobs, torch.zeros_like(ratio, dtype=torch.bool)
    return clipped_ratio(
        ratio,
        advantages,
        low=options.clip_low,
        high=options.clip_high,
        delta=options.delta,
        dual_clip=options.dual_clip,
    )


def clipped_ratio(
    ratio: Tensor,
    advantages: Tensor,
    *,
    low: float,
    high: float,
    delta: float | None = None,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """−min(rA, clip(r, 1−low, 1+high)A) (PPO, arXiv 1707.06347).

    For A < 0 that loss grows without bound in r. ``delta`` caps r in the unclipped branch; ``dual_clip`` caps
    the loss at −cA. Both bound the same thing and the smaller one wins.
    """
    clipped = ratio.clamp(1.0 - low, 1.0 + high)
    unclipped = ratio if delta is None else ratio.clamp(max=delta)
    loss = -torch.minimum(unclipped * advantages, clipped * advantages)
    negative = advantages < 0
    cut = (negative & (ratio < 1.0 - low)) | ((advantages > 0) & (ratio > 1.0 + high))
    if delta is not None:
        cut = cut | (negative & (ratio > delta))
    if dual_clip is not None:
        loss = torch.where(negative, torch.minimum(loss, -dual_clip * advantages), loss)
        cut = cut | (negative & (ratio > dual_clip))
    return loss, cut


def cispo(logprobs: Tensor, ratio: Tensor, advantages: Tensor, *, cap: float) -> tuple[Tensor, Tensor]:
    """−sg[min(r, cap)]·A·log π (arXiv 2506.13585): no token loses its gradient, its weight is capped."""
    weight = ratio.detach().clamp(max=cap)
    return -weight * advantages * logprobs, ratio.detach() > cap


def sapo(ratio: Tensor, advantages: Tensor, temperature_pos: float, temperature_neg: float) -> Tensor:
    """−(4/τ)σ(τ(r−1))·A (arXiv 2511.20347): a soft gate instead of a clip, slope A at r = 1."""
    temperature = torch.where(advantages > 0, ratio.new_tensor(temperature_pos), ratio.new_tensor(temperature_neg))
    return -torch.sigmoid(temperature * (ratio - 1.0)) * 4.0 / temperature * advantages
