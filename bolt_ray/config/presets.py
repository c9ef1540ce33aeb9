"""Named starting points (``algo:``): defaults laid under what the user wrote, never over it.

| algo        | what it is |
|-------------|------------|
| bolt        | persistent baseline and uncertainty curriculum, K = 1 (full BOLT; the default) |
| baseline    | persistent baseline advantages only, prompts drawn uniformly, K = 2 |
| curriculum  | uncertainty curriculum only, group advantages, K = 8 |
| grpo        | group advantages, prompts drawn uniformly, K = 8 (arXiv 2402.03300) |
| spo         | Single-stream Policy Optimization (arXiv 2509.13232), K = 1 |
| spo++       | SPO++ (arXiv 2608.24870): event forgetting, token normalization, dual clip, K = 1 |
"""

from __future__ import annotations

from typing import Any

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
    "spo": {
        "rollout": {"group_size": 1},
        "baseline": {"forgetting": "kl", "d_half": 0.06},
        "advantage": {"baseline": "tracker", "normalize": "batch"},
        "curriculum": {"strategy": "uncertainty"},
    },
    "spo++": {
        "rollout": {"group_size": 1},
        "baseline": {"forgetting": "event"},
        "advantage": {"baseline": "tracker", "normalize": "token"},
        "loss": {"dual_clip": 2.0},
        "curriculum": {"strategy": "uncertainty"},
    },
}


def merge(base: Tree, over: Tree) -> Tree:
    """``over`` laid on ``base``, section by section; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
