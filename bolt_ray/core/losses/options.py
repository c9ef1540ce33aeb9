"""What a policy loss can be asked for, and which requests make no sense."""

from __future__ import annotations

import math
from dataclasses import dataclass

DEFAULT_AGGREGATION = {
    "grpo": "sequence_mean",
    "dapo": "token_mean",
    "bnpo": "local_token_mean",
    "dr_grpo": "fixed_length",
    "gspo": "sequence_mean",
    "cispo": "token_mean",
    "sapo": "sequence_mean",
    "reinforce": "token_mean",
}
"""Loss types and how each adds its tokens up; see ``losses.aggregation``."""

LOSS_TYPES = tuple(DEFAULT_AGGREGATION)
AGGREGATIONS = ("sequence_mean", "token_mean", "local_token_mean", "fixed_length")
CLIPPED_TYPES = ("grpo", "dapo", "bnpo", "dr_grpo", "gspo")
"""Types built on min(rA, clip(r)A); only they have ``delta`` and ``dual_clip``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOptions:
    """A policy loss and its numbers; refused on construction if they contradict each other.

    Attributes:
        type: one of ``LOSS_TYPES``.
        aggregation: one of ``AGGREGATIONS``; None takes the type's own.
        clip_low, clip_high: the ratio is clipped to [1 - clip_low, 1 + clip_high].
        max_completion_tokens: the constant length of ``fixed_length`` (``dr_grpo``).
        cispo_max: cap of the CISPO weight, an absolute ratio (not 1 + something).
        delta: two-sided clipping: cap of the ratio in the unclipped branch.
        dual_clip: c, bounds the loss of a negative advantage by -cA (arXiv 1912.09729).
        sapo_temperature_pos, sapo_temperature_neg: SAPO's τ for A > 0 and for A ≤ 0.
        entropy_coef: weight of the entropy bonus; 0 for none.

    Raises:
        ValueError: an unknown type or an impossible combination.
    """

    type: str = "dapo"
    aggregation: str | None = None
    clip_low: float = 0.2
    clip_high: float = 0.28
    max_completion_tokens: int | None = None
    cispo_max: float = 5.0
    delta: float | None = None
    dual_clip: float | None = None
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    entropy_coef: float = 0.0

    def __post_init__(self) -> None:
        check_loss_options(self)

    @property
    def resolved_aggregation(self) -> str:
        return self.aggregation or DEFAULT_AGGREGATION[self.type]


def default_clip_range(loss_type: str) -> tuple[float, float]:
    """(clip_low, clip_high) as each loss's authors use it.

    Raises:
        ValueError: unknown type.
    """
    _check_type(loss_type)
    return {"grpo": (0.2, 0.2), "gspo": (3e-4, 4e-4)}.get(loss_type, (0.2, 0.28))


def check_loss_options(options: LossOptions) -> None:
    """Refuse what cannot work, or would silently do nothing.

    Raises:
        ValueError: the message names the option and what to do.
    """
    _check_type(options.type)
    _check_aggregation(options)
    _check_clipping(options)
    _require_positive("cispo_max", options.cispo_max)
    _require_positive("sapo_temperature_pos", options.sapo_temperature_pos)
    _require_positive("sapo_temperature_neg", options.sapo_temperature_neg)
    if not math.isfinite(options.entropy_coef):
        raise ValueError(f"entropy_coef must be a finite number, got {options.entropy_coef}")


def _check_type(loss_type: str) -> None:
    if loss_type not in LOSS_TYPES:
        raise ValueError(f"unknown loss type {loss_type!r}; choose one of {', '.join(LOSS_TYPES)}")


def _check_aggregation(options: LossOptions) -> None:
    if options.aggregation is not None and options.aggregation not in AGGREGATIONS:
        raise ValueError(f"unknown aggregation {options.aggregation!r}; choose one of {', '.join(AGGREGATIONS)}")
    aggregation = options.resolved_aggregation
    if options.type == "gspo" and aggregation != "sequence_mean":
        raise ValueError(
            f"gspo has one ratio per sequence, so aggregation {aggregation!r} would weight it by the "
            "sequence's length; leave aggregation out or set it to 'sequence_mean'"
        )
    limit = options.max_completion_tokens
    if aggregation == "fixed_length" and limit is None:
        raise ValueError(f"{options.type} with aggregation 'fixed_length' needs max_completion_tokens")
    if limit is not None and limit < 1:
        raise ValueError(f"max_completion_tokens must be at least 1, got {limit}")


def _check_clipping(options: LossOptions) -> None:
    low, high = options.clip_low, options.clip_high
    if not (0.0 <= low < 1.0 and 0.0 < high < math.inf):
        raise ValueError(f"the clip range needs 0 <= clip_low < 1 and clip_high > 0, got {low} and {high}")
    if low > high:
        raise ValueError(f"clip range out of order: clip_low {low} exceeds clip_high {high}; swap them")
    for name, value in (("delta", options.delta), ("dual_clip", options.dual_clip)):
        if value is None:
            continue
        if options.type not in CLIPPED_TYPES:
            raise ValueError(f"{name} has no meaning for {options.type}; it belongs to {', '.join(CLIPPED_TYPES)}")
        if not (1.0 + high < value < math.inf):
            raise ValueError(f"{name} must be above 1 + clip_high = {1.0 + high:g}, got {value}")


def _require_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value}")
