"""Which completions of a step are worth keeping. A pure function of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from bolt_ray.core.records import ScoredRollout, UnscoredRollout

REASONS = ("best", "worst", "longest", "truncated", "surprise", "unscored")
"""Why a completion is kept: its reward, its length, that it was cut, |r̃ − v̂|, or that no reward could be given."""

NOT_PICKED = "all"
"""Stands for a reason where completions are kept without being picked (``samples.all``, evaluations)."""

_FACTS = ("truncated", "unscored")
"""True of a completion by itself; the others compare it with the rest of its step."""


def choose(
    rollouts: Sequence[ScoredRollout | UnscoredRollout], surprise: Sequence[float | None], *, limit: int
) -> dict[int, tuple[str, ...]]:
    """At most ``limit`` completions, as their places with all reasons each.

    The reasons take turns, each with its next completion, until there are enough. Only the upper half of what the step
    has of a number counts as much, so that no reason runs down to completions it does not fit; where all are equal,
    none of them is best, worst or longest. Among equals, different prompts come before several answers to one.

    Args:
        rollouts: of one step.
        surprise: |r̃ − v̂| of each; None without a reward.
    """
    order = sorted(range(len(rollouts)), key=lambda i: (rollouts[i].sample_index, rollouts[i].request_id))
    rewards = {i: item.reward for i in order if isinstance(item := rollouts[i], ScoredRollout)}
    surprises = {i: value for i in order if (value := surprise[i]) is not None}
    lines = {
        "best": _upper_half(rewards),
        "worst": _upper_half({i: -reward for i, reward in rewards.items()}),
        "longest": _upper_half({i: float(len(rollouts[i].token_ids)) for i in order}),
        "truncated": [i for i in order if rollouts[i].truncated],
        # A step without any difference is still worth a look: surprise has them all then.
        "surprise": _upper_half(surprises) or list(surprises),
        "unscored": [i for i in order if i not in rewards],
    }
    chosen: set[int] = set()
    for turn in count():
        if len(chosen) >= limit or all(turn >= len(line) for line in lines.values()):
            break
        for line in lines.values():
            if turn < len(line) and len(chosen) < limit:
                chosen.add(line[turn])
    fitting = {reason: set(line if reason in _FACTS else line[:turn]) for reason, line in lines.items()}
    return {i: tuple(reason for reason in REASONS if i in fitting[reason]) for i in sorted(chosen)}


def _upper_half(values: Mapping[int, float]) -> list[int]:
    """Those above the middle between the smallest and the largest value, the largest first."""
    if not values:
        return []
    middle = min(values.values()) / 2 + max(values.values()) / 2
    return sorted((i for i, value in values.items() if value > middle), key=lambda i: -values[i])
