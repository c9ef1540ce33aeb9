"""Policy losses: one file per idea, ``policy_loss`` (padded) and ``policy_loss_packed`` on top.

Names are imported when they are first used: whoever only checks settings need not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bolt_ray.core.losses.aggregation import Denominators
    from bolt_ray.core.losses.entropy import entropy_threshold, top_entropy_mask
    from bolt_ray.core.losses.loss import LossOutput
    from bolt_ray.core.losses.metrics import SUM_KEYS, add_sums, summarize
    from bolt_ray.core.losses.options import LossOptions
    from bolt_ray.core.losses.policy import policy_loss, policy_loss_packed
    from bolt_ray.core.losses.registry import AGGREGATIONS, LOSSES, LossType, loss_type

_HOMES = {
    "aggregation": ("Denominators",),
    "entropy": ("entropy_threshold", "top_entropy_mask"),
    "loss": ("LossOutput",),
    "metrics": ("SUM_KEYS", "add_sums", "summarize"),
    "options": ("LossOptions",),
    "policy": ("policy_loss", "policy_loss_packed"),
    "registry": ("AGGREGATIONS", "LOSSES", "LossType", "loss_type"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AGGREGATIONS",
    "LOSSES",
    "SUM_KEYS",
    "Denominators",
    "LossOptions",
    "LossOutput",
    "LossType",
    "add_sums",
    "entropy_threshold",
    "loss_type",
    "policy_loss",
    "policy_loss_packed",
    "summarize",
    "top_entropy_mask",
]
