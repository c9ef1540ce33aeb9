"""Whether one answer, whatever the prompt, is what a policy gives, and what it earns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from bolt_ray.core.evaluation.answers import extract_answer
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import ScoredRollout

declare_metrics(
    {
        "completions/most_common_fraction": (
            "share of prompts",
            "prompts of the step that get its most frequent answer, as maj@k finds answers; of 8 to 64 prompts",
        ),
        "reward/most_common": ("reward", "mean raw reward of the completions with that answer"),
    }
)

ENOUGH_PROMPTS = 8
MOST_PROMPTS = 64
"""Looked at in a step: enough for a share, and quickly done."""
LAST_CHARS = 300
"""Of a completion: where its answer is looked for."""


def common_answer(items: Sequence[ScoredRollout]) -> dict[str, float]:
    """The metrics of a step's completions, by the first one of each prompt; {} where prompts are too few to differ."""
    firsts: dict[str, ScoredRollout] = {}
    for item in items:
        if len(firsts) == MOST_PROMPTS:
            break
        firsts.setdefault(item.prompt.key, item)
    if len(firsts) < ENOUGH_PROMPTS:
        return {}
    rewards: dict[str, list[float]] = defaultdict(list)
    for item in firsts.values():
        rewards[extract_answer(item.text[-LAST_CHARS:]) or ""].append(item.reward)
    earned = max(rewards.values(), key=len)
    return {
        "completions/most_common_fraction": len(earned) / len(firsts),
        "reward/most_common": sum(earned) / len(earned),
    }
