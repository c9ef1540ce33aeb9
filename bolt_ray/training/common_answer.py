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
            "prompts of the step that get its most frequent answer (as maj@k finds answers); of 8 prompts and more",
        ),
        "reward/most_common": ("reward", "mean raw reward of the completions with that answer"),
    }
)

ENOUGH_PROMPTS = 8
LAST_CHARS = 1000
"""Of a completion: where its answer is looked for."""


def common_answer(items: Sequence[ScoredRollout]) -> dict[str, float]:
    """The metrics of a step's completions; {} where its prompts are too few to differ."""
    prompts = len({item.prompt.key for item in items})
    if prompts < ENOUGH_PROMPTS:
        return {}
    rewards: dict[str, list[float]] = defaultdict(list)
    keys: dict[str, set[str]] = defaultdict(set)
    for item in items:
        answer = extract_answer(item.text[-LAST_CHARS:]) or ""
        rewards[answer].append(item.reward)
        keys[answer].add(item.prompt.key)
    common = max(keys, key=lambda answer: len(keys[answer]))
    return {
        "completions/most_common_fraction": len(keys[common]) / prompts,
        "reward/most_common": sum(rewards[common]) / len(rewards[common]),
    }
