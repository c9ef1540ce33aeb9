"""KL to the reference: estimators from single samples, the unbiased form, adaptive shapes.

d = log π_ref − log π at the sampled token. What each estimator's *gradient* is, in expectation over tokens
drawn from π, is not what its value suggests:

    estimator   value            expected value      expected gradient as a loss
    k1          −d               KL(π‖ref)           0: refused as a loss
    k2          d²/2             ½E[d²]              ∇KL(π‖ref)
    k3          e^d − d − 1      KL(π‖ref)           ∇KL(ref‖π)
    r·k3        r = π/π_old      KL(π‖ref)           ∇KL(π‖ref), r differentiable
    abs         |d|              E|d|                ∇Σ|π − ref|

(Schulman, "Approximating KL divergence"; arXiv 2512.21852 for the gradients.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bolt_ray.core.kl_options import ADAPTATIONS, ESTIMATORS, PLACEMENTS, SHAPES, UNITS, KLOptions, KLSettings
from bolt_ray.core.sequence_sums import MAX_EXPONENT, segment_lengths, segment_sum

__all__ = [
    "ADAPTATIONS",
    "ESTIMATORS",
    "PLACEMENTS",
    "SHAPES",
    "UNITS",
    "KLOptions",
    "KLSettings",
    "KLTerms",
    "estimate_kl",
    "kl_reward_penalty",
    "kl_terms",
    "shape_kl",
    "unbiased_kl",
]


def estimate_kl(logprobs: Tensor, ref_logprobs: Tensor, estimator: str) -> Tensor:
    """Plain k1, k2, k3 or abs of each token, gradient through ``logprobs``.

    Raises:
        ValueError: unknown estimator.
    """
    d = ref_logprobs - logprobs
    if estimator == "k1":
        return -d
    if estimator == "k2":
        return d.square() / 2
    if estimator == "k3":
        # expm1 keeps the digits that e^d − 1 loses near d = 0, where k3 is about d²/2.
        return torch.expm1(d.clamp(max=MAX_EXPONENT)) - d
    if estimator == "abs":
        return d.abs()
    raise ValueError(f"unknown KL estimator {estimator!r}; choose one of {', '.join(ESTIMATORS)}")


def unbiased_kl(kl: Tensor, log_ratio: Tensor) -> Tensor:
    """r·k with r = e^{log π − log π_old} differentiable: its expected gradient is that of E_π[k]."""
    return torch.exp(log_ratio.clamp(max=MAX_EXPONENT)) * kl


def shape_kl(kl: Tensor, options: KLOptions) -> Tensor:
    """f(K) of a differentiable K ≥ 0; K itself without a shape."""
    shape = options.shape
    if shape == "clip":
        return kl.clamp(max=options.clip_threshold)
    if shape == "sigmoid":
        return torch.sigmoid((kl - options.target) / options.temperature) * kl
    if shape == "hinge":
        return F.relu(kl - options.threshold)
    if shape == "softplus":
        return F.softplus(kl - options.threshold)
    return kl


@dataclass(frozen=True, slots=True, kw_only=True)
class KLTerms:
    """KL of a flat batch, before the coefficient and before aggregation.

    Attributes:
        raw: what is reported and what controllers follow: k3, which is never negative and has the expected value
            KL(π‖ref) whatever ``estimator`` and shape are penalized; [T], or sums [num_sequences] after ``unit``.
        adapted: what is penalized, with gradient; [T] or [num_sequences].
        raw_unit, unit: "token" or "sequence", of ``raw`` and of ``adapted``; ``length_normalized`` makes one number per
            sequence of a KL that is per token.
    """

    raw: Tensor
    adapted: Tensor
    raw_unit: str
    unit: str


def kl_terms(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    *,
    log_ratio: Tensor,
    sequence_ids: Tensor,
    num_sequences: int,
    options: KLOptions,
) -> KLTerms:
    """K of every active token [T] through estimator, unit and shape.

    Args:
        log_ratio: float [T], log π − log π_old with gradient, for the unbiased form.
        sequence_ids: int64 [T].
    """
    raw = estimate_kl(logprobs.detach(), ref_logprobs, "k3")
    if options.unit == "sequence":
        raw = segment_sum(raw, sequence_ids, num_sequences)
    estimator = "k2" if options.adaptation else options.estimator
    kl = estimate_kl(logprobs, ref_logprobs, estimator)
    if estimator == "k3" and options.unbiased:
        kl = unbiased_kl(kl, log_ratio)
    if options.unit == "token" and not options.length_normalized:
        return KLTerms(raw=raw, adapted=shape_kl(kl, options), raw_unit="token", unit="token")
    kl = segment_sum(kl, sequence_ids, num_sequences)
    if options.length_normalized:
        kl = kl / segment_lengths(sequence_ids, num_sequences).clamp(min=1)
    return KLTerms(raw=raw, adapted=shape_kl(kl, options), raw_unit=options.unit, unit="sequence")


def kl_reward_penalty(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    *,
    sequence_ids: Tensor,
    num_sequences: int,
    estimator: str,
) -> Tensor:
    """Σ_t k_t of each sequence, no gradient, [num_sequences]; the reward becomes r − β·this.

    Args:
        logprobs: float [T] of the policy that generated the tokens.
    """
    kl = estimate_kl(logprobs.detach(), ref_logprobs.detach(), estimator)
    return segment_sum(kl, sequence_ids, num_sequences)
