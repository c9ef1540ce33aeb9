"""The per-token policy losses. d = log π − log π_old, r = e^d, A the sequence's advantage; minimized."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bolt_ray.core.errors import ConfigError
from bolt_ray.core.losses.options import LossOptions
from bolt_ray.core.losses.registry import loss_type
from bolt_ray.core.plugins import is_reference, load_object
from bolt_ray.core.sequence_sums import MAX_EXPONENT, segment_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class SurrogateInput:
    """The active tokens of a micro-batch.

    Attributes:
        logprobs: float [T], log π with gradient.
        log_ratio: float [T], d = log π − log π_old, with gradient.
        advantages: float [T], A of the token's sequence.
        sequence_ids: int64 [T], 0 … num_sequences − 1.
        num_sequences: sequences of the micro-batch.
    """

    logprobs: Tensor
    log_ratio: Tensor
    advantages: Tensor
    sequence_ids: Tensor
    num_sequences: int

    @property
    def ratio(self) -> Tensor:
        """float [T], r = e^d, bounded against overflow."""
        return torch.exp(self.log_ratio.clamp(max=MAX_EXPONENT))


Surrogate = Callable[[SurrogateInput, LossOptions], tuple[Tensor, Tensor]]
"""The loss of every token, float [T], and whether clipping took its gradient away, bool [T]."""


def surrogate(tokens: SurrogateInput, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The loss of ``options.type``; see ``losses.registry``.

    Raises:
        ConfigError: a user's own function returned something else than two tensors [T].
        ValueError: it cannot be found.
    """
    name = loss_type(options.type).surrogate
    if is_reference(name):
        return _checked(load_object(name)(tokens, options), tokens, name)
    function: Surrogate = globals()[name]
    return function(tokens, options)


def _checked(result: Any, tokens: SurrogateInput, name: str) -> tuple[Tensor, Tensor]:
    """What a user's function returned; anything but one number per token would broadcast into a wrong loss."""
    shape = tokens.logprobs.shape
    match result:
        case (Tensor() as loss, Tensor() as clipped) if loss.shape == shape == clipped.shape:
            return loss, clipped.bool()
    raise ConfigError(
        f"loss.type {name} must return two tensors of shape {tuple(shape)}, the loss of every token and whether "
        "clipping took its gradient away"
    )


def clipped(tokens: SurrogateInput, options: LossOptions) -> tuple[Tensor, Tensor]:
    """−min(rA, clip(r)A) of each token."""
    return _clipped_ratio(tokens.ratio, tokens.advantages, options)


def gspo(tokens: SurrogateInput, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The same with one ratio per sequence, the geometric mean of its tokens' ratios (arXiv 2507.18071)."""
    mean = segment_mean(tokens.log_ratio, tokens.sequence_ids, tokens.num_sequences)[tokens.sequence_ids]
    return _clipped_ratio(torch.exp(mean.clamp(max=MAX_EXPONENT)), tokens.advantages, options)


def reinforce(tokens: SurrogateInput, options: LossOptions) -> tuple[Tensor, Tensor]:
    """−A·log π. What another policy generated is weighted by the correction (``core.corrections``)."""
    return -tokens.advantages * tokens.logprobs, torch.zeros_like(tokens.log_ratio, dtype=torch.bool)


def cispo(tokens: SurrogateInput, options: LossOptions) -> tuple[Tensor, Tensor]:
    """−sg[min(r, cap)]·A·log π (arXiv 2506.13585): no token loses its gradient, its weight is capped."""
    ratio = tokens.ratio.detach()
    weight = ratio.clamp(max=options.cispo_max)
    return -weight * tokens.advantages * tokens.logprobs, ratio > options.cispo_max


def sapo(tokens: SurrogateInput, options: LossOptions) -> tuple[Tensor, Tensor]:
    """−(4/τ)σ(τ(r−1))·A (arXiv 2511.20347): a soft gate instead of a clip, slope A at r = 1."""
    ratio, advantages = tokens.ratio, tokens.advantages
    temperature = torch.where(
        advantages > 0, ratio.new_tensor(options.sapo_tau_positive), ratio.new_tensor(options.sapo_tau_negative)
    )
    loss = -torch.sigmoid(temperature * (ratio - 1.0)) * 4.0 / temperature * advantages
    return loss, torch.zeros_like(ratio, dtype=torch.bool)


def _clipped_ratio(ratio: Tensor, advantages: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """−min(rA, clip(r, 1−low, 1+high)A) (PPO, arXiv 1707.06347).

    For A < 0 that loss grows without bound in r. ``delta`` caps r in the unclipped branch; ``dual_clip`` caps
    the loss at −cA. Both bound the same thing and the smaller one wins.
    """
    low, high = options.clip_range
    delta, dual_clip = options.delta, options.dual_clip
    bounded = ratio.clamp(1.0 - low, 1.0 + high)
    unclipped = ratio if delta is None else ratio.clamp(max=delta)
    loss = -torch.minimum(unclipped * advantages, bounded * advantages)
    negative = advantages < 0
    cut = (negative & (ratio < 1.0 - low)) | ((advantages > 0) & (ratio > 1.0 + high))
    if delta is not None:
        cut = cut | (negative & (ratio > delta))
    if dual_clip is not None:
        loss = torch.where(negative, torch.minimum(loss, -dual_clip * advantages), loss)
        cut = cut | (negative & (ratio > dual_clip))
    return loss, cut
