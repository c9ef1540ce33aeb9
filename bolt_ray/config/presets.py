"""Named starting points (``algo:``): defaults laid under what the user wrote, never over it.

| algo        | what it is |
|-------------|------------|
| bolt        | persistent baseline and uncertainty curriculum, K = 1 (full BOLT; the default) |
| baseline    | persistent baseline advantages only, prompts drawn uniformly, K = 2 |
| curriculum  | uncertainty curriculum only, group advantages, K = 8 |
| grpo        | group advantages, prompts drawn uniformly, K = 8 (arXiv 2402.03300) |
| spo         | Single-stream Policy Optimization (arXiv 2509.13232), K = 1, from a warm start of 8 samples a prompt |
| dapo        | DAPO (arXiv 2503.14476): group advantages, clip-higher, token mean, dynamic sampling, K = 8 |
| reinforce   | the mean of the batch as baseline, prompts drawn uniformly, K = 1: what v̂ has to beat |
| spo++       | SPO++ (arXiv 2608.24870): event forgetting, token normalization, dual clip, K = 1 |
"""

from __future__ import annotations

from typing import Any

from bolt_ray.core.baseline.settings import idle_settings
from bolt_ray.core.losses.registry import LOSSES

Tree = dict[str, Any]

PRESETS: dict[str, Tree] = {
    "bolt": {
        "rollout": {"group_size": 1},
        "advantage": {"baseline": "tracker", "normalize": "token", "clip": 5.0},
        "curriculum": {"strategy": "uncertainty"},
    },
    "baseline": {
        "rollout": {"group_size": 2},
        "advantage": {"baseline": "tracker", "normalize": "token"},
        "curriculum": {"strategy": "uniform"},
    },
    "curriculum": {
        "rollout": {"group_size": 8},
        "advantage": {"baseline": "group", "normalize": "group"},
        "curriculum": {"strategy": "uncertainty"},
    },
    "grpo": {
        "rollout": {"group_size": 8},
        "advantage": {"baseline": "group", "normalize": "group"},
        "loss": {"type": "grpo"},
        "curriculum": {"strategy": "uniform"},
    },
    "dapo": {
        "rollout": {"group_size": 8, "dynamic_sampling": True},
        "advantage": {"baseline": "group", "normalize": "group"},
        "loss": {"type": "dapo"},
        "curriculum": {"strategy": "uniform"},
    },
    "reinforce": {
        "rollout": {"group_size": 1},
        "advantage": {"baseline": "batch", "normalize": "token"},
        "curriculum": {"strategy": "uniform"},
    },
    "spo": {
        "rollout": {"group_size": 1},
        "baseline": {"estimator": "beta", "forgetting": "kl", "d_half": 0.06, "warm_start": "auto"},
        "advantage": {"baseline": "tracker", "normalize": "batch"},
        "curriculum": {"strategy": "uncertainty"},
    },
    "spo++": {
        "rollout": {"group_size": 1},
        "baseline": {"estimator": "beta", "forgetting": "event"},
        "advantage": {"baseline": "tracker", "normalize": "token"},
        "loss": {"dual_clip": 2.0},
        "curriculum": {"strategy": "uncertainty"},
    },
}

OF_LOSS: dict[str, Tree] = {"dr_grpo": {"advantage": {"normalize": "none"}}}
"""What belongs to a loss by its paper, over the preset: Dr. GRPO (arXiv 2503.20783) divides by no deviation."""


def _of_loss(preset: Tree, loss: Any) -> Tree:
    """What lies over ``preset`` for the loss that was given: one that counts sequences alike takes no statistics that
    count long ones more, which would leave its mean advantage off zero."""
    kind = str(loss.get("type")) if isinstance(loss, dict) else ""
    if kind in LOSSES and LOSSES[kind].aggregation == "sequence_mean":
        by_token = preset.get("advantage", {}).get("normalize") == "token"
        return {"advantage": {"normalize": "batch"}} if by_token else {}
    return OF_LOSS.get(kind, {})


def lay_under(given: Tree, preset: Tree) -> Tree:
    """``given`` laid over ``preset``, without what of the preset's baseline does nothing beside what was given.

    What belongs to the loss that was given lies between the two. ``forgetting: event`` is of estimator ``beta`` alone,
    and is taken to mean it where no estimator is named.
    """
    laid = merge(merge(preset, _of_loss(preset, given.get("loss"))), given)
    baseline, wanted = laid.get("baseline"), given.get("baseline")
    if not isinstance(baseline, dict):
        return laid
    wanted = wanted if isinstance(wanted, dict) else {}
    if baseline.get("forgetting") == "event":
        baseline = {"estimator": "beta"} | baseline
    idle = idle_settings(str(baseline.get("estimator", "two_level")), str(baseline.get("forgetting", "kl")))
    kept = {name: value for name, value in baseline.items() if name in wanted or name not in idle}
    return laid | {"baseline": kept}


def merge(base: Tree, over: Tree) -> Tree:
    """``over`` laid on ``base``, section by section; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
