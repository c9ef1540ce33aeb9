"""Policy losses: one file per idea, ``policy_loss`` (padded) and ``policy_loss_packed`` on top."""

from bolt_ray.core.losses.aggregation import Denominators
from bolt_ray.core.losses.entropy import entropy_threshold, top_entropy_mask
from bolt_ray.core.losses.loss import LossOutput
from bolt_ray.core.losses.metrics import SUM_KEYS, add_sums, summarize
from bolt_ray.core.losses.options import (
    AGGREGATIONS,
    LOSS_TYPES,
    LossOptions,
    check_loss_options,
    default_clip_range,
)
from bolt_ray.core.losses.policy import policy_loss, policy_loss_packed

__all__ = [
    "AGGREGATIONS",
    "LOSS_TYPES",
    "SUM_KEYS",
    "Denominators",
    "LossOptions",
    "LossOutput",
    "add_sums",
    "check_loss_options",
    "default_clip_range",
    "entropy_threshold",
    "policy_loss",
    "policy_loss_packed",
    "summarize",
    "top_entropy_mask",
]
