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

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from bolt_ray.core.sequence_sums import MAX_EXPONENT, segment_lengths, segment_sum

ESTIMATORS = ("k1", "k2", "k3", "abs")
SHAPES = ("clip", "sigmoid", "hinge", "softplus")
ADAPTATIONS = (*SHAPES, "length_normalized")
PLACEMENTS = ("loss", "reward")
UNITS = ("token", "sequence")


@dataclass(frozen=True, slots=True, kw_only=True)
class KLOptions:
    """How the KL term is measured and shaped; refused on construction if contradictory.

    Attributes:
        estimator: one of ``ESTIMATORS``. Where an adaptation is on, K is k2 whatever stands here: it is
            non-negative and its plain gradient is that of KL(π‖ref).
        unbiased: multiplies k3 by the differentiable ratio r. The other estimators are left as they are: k2
            has the right gradient already and r·k2 would not.
        placement: "loss", or "reward" (subtracted from the reward, no gradient).
        adaptation: at most one of ``SHAPES``, with or without "length_normalized".
        unit: "token": the shape acts on each token's K. "sequence": on Σ_t K_t of the sequence, and the term
            is the mean over sequences. "length_normalized" makes it the sequence's mean K.
        clip_threshold: of ``clip``. Beyond it f is flat: no pull back to the reference at all.
        target, temperature: of ``sigmoid``.
        threshold: of ``hinge`` and ``softplus``.

    Raises:
        ValueError: an unknown name or an impossible combination.
    """

    estimator: str = "k3"
    unbiased: bool = True
    placement: str = "loss"
    adaptation: tuple[str, ...] = ()
    unit: str = "token"
    clip_threshold: float = 1.0
    target: float = 0.1
    temperature: float = 1.0
    threshold: float = 0.1

    def __post_init__(self) -> None:
        _check_names(self)
        _check_combination(self)

    @property
    def shape(self) -> str | None:
        return next((name for name in self.adaptation if name in SHAPES), None)

    @property
    def length_normalized(self) -> bool:
        return "length_normalized" in self.adaptation


def check_kl_options(options: KLOptions, *, coef: float, controller: str | None = None) -> None:
    """Refuse a coefficient that makes the rest of the settings do nothing.

    (``KLOptions`` itself refuses impossible combinations when it is built; one controller at most is what the
    single ``controller`` argument can hold.)

    Args:
        coef: β₀.
        controller: a name of ``kl_controllers.CONTROLLERS`` or None.

    Raises:
        ValueError: negative coefficient; a controller or an adaptation with coefficient 0.
    """
    if not 0.0 <= coef < math.inf:
        raise ValueError(f"kl.coef must be 0 or more, got {coef}")
    if coef == 0.0 and controller is not None:
        raise ValueError(f"kl controller {controller!r} multiplies kl.coef, which is 0; set kl.coef above 0")
    if coef == 0.0 and options.adaptation:
        names = "+".join(options.adaptation)
        raise ValueError(f"kl.adaptation {names!r} has no effect with kl.coef 0; set kl.coef above 0")


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
        raw: K before the shape and before r, [T] or [num_sequences] after ``unit``.
        adapted: what is penalized, with gradient; same shape.
        unit: "token" or "sequence".
    """

    raw: Tensor
    adapted: Tensor
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
    estimator = "k2" if options.adaptation else options.estimator
    raw = estimate_kl(logprobs, ref_logprobs, estimator)
    kl = unbiased_kl(raw, log_ratio) if estimator == "k3" and options.unbiased else raw
    if options.unit == "token" and not options.length_normalized:
        return KLTerms(raw=raw, adapted=shape_kl(kl, options), unit="token")

    raw = segment_sum(raw, sequence_ids, num_sequences)
    kl = segment_sum(kl, sequence_ids, num_sequences)
    if options.length_normalized:
        lengths = segment_lengths(sequence_ids, num_sequences).clamp(min=1)
        raw, kl = raw / lengths, kl / lengths
    return KLTerms(raw=raw, adapted=shape_kl(kl, options), unit="sequence")


def kl_reward_penalty(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    *,
    sequence_ids: Tensor,
    num_sequences: int,
    estimator: str = "k1",
) -> Tensor:
    """Σ_t k_t of each sequence, no gradient, [num_sequences]; the reward becomes r − β·this.

    Args:
        logprobs: float [T] of the policy that generated the tokens.
    """
    kl = estimate_kl(logprobs.detach(), ref_logprobs.detach(), estimator)
    return segment_sum(kl, sequence_ids, num_sequences)


def _check_names(options: KLOptions) -> None:
    for field, value, allowed in (
        ("estimator", options.estimator, ESTIMATORS),
        ("placement", options.placement, PLACEMENTS),
        ("unit", options.unit, UNITS),
        *(("adaptation", name, ADAPTATIONS) for name in options.adaptation),
    ):
        if value not in allowed:
            raise ValueError(f"unknown kl.{field} {value!r}; choose one of {', '.join(allowed)}")


def _check_combination(options: KLOptions) -> None:
    if options.estimator == "k1" and options.placement == "loss":
        raise ValueError("kl.estimator k1 has zero expected gradient as a loss; use k2 or k3, or kl.placement: reward")
    if len(set(options.adaptation)) != len(options.adaptation):
        raise ValueError(f"kl.adaptation names one method twice: {', '.join(options.adaptation)}")
    shapes = [name for name in options.adaptation if name in SHAPES]
    if len(shapes) > 1:
        raise ValueError(
            f"kl.adaptation combines {' and '.join(shapes)}; length_normalized may go with at most one shape"
        )
    if options.adaptation and options.placement == "reward":
        raise ValueError("kl.adaptation shapes a differentiable KL; it needs kl.placement: loss")
    for field in ("clip_threshold", "temperature"):
        value = getattr(options, field)
        if not 0.0 < value < math.inf:
            raise ValueError(f"kl.{field} must be a positive number, got {value}")
    for field in ("target", "threshold"):
        value = getattr(options, field)
        if not 0.0 <= value < math.inf:
            raise ValueError(f"kl.{field} must be 0 or more, got {value}")
