"""Counts completions without a verdict: a few are noise, many mean that the reward itself is broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from bolt_ray.core.errors import UnhealthyTrainingError
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import UnscoredReason

declare_metrics(
    {
        "reward/unscored/{reward}/{kind}": (
            "completions",
            "completions a reward gave no verdict on, by kind of reason",
        ),
    }
)


class UnscoredCheck(Protocol):
    """Raises when too many completions could not be scored; see :func:`check_unscored`."""

    def __call__(self, *, num_scored: int, reasons: Mapping[UnscoredReason, int]) -> None: ...


def count_reasons(reasons: Iterable[UnscoredReason]) -> dict[UnscoredReason, int]:
    """How often each reason occurs, details left out, the most frequent first."""
    return dict(Counter(without_detail(reason) for reason in reasons).most_common())


def without_detail(reason: UnscoredReason) -> UnscoredReason:
    """The countable part of a reason."""
    return replace(reason, detail="")


def unscored_metric(reason: UnscoredReason) -> str:
    """The name a reason is counted under: ``reward/unscored/<reward>/<kind>``."""
    return f"reward/unscored/{reason.reward}/{reason.kind}"


def unscored_fraction(*, num_scored: int, num_unscored: int) -> float:
    """Share of completions without a verdict; 0.0 where there were none at all."""
    total = num_scored + num_unscored
    return num_unscored / total if total else 0.0


def check_unscored(
    *,
    num_scored: int,
    reasons: Mapping[UnscoredReason, int],
    max_unscored_fraction: float,
    min_completions: int = 1,
) -> None:
    """Refuse to go on when too few completions get a verdict.

    Args:
        num_scored: completions with a reward in the window looked at.
        reasons: completions without one, by reason without detail.
        max_unscored_fraction: the share that is still tolerated, in [0, 1].
        min_completions: below this many completions in the window nothing is concluded.

    Raises:
        UnhealthyTrainingError: the share is above the limit, or nothing at all was scored; the message counts the
            reasons.
    """
    num_unscored = sum(reasons.values())
    total = num_scored + num_unscored
    fraction = unscored_fraction(num_scored=num_scored, num_unscored=num_unscored)
    if total < min_completions or (num_scored and fraction <= max_unscored_fraction):
        return
    counted = "; ".join(f"{count} × {reason}" for reason, count in Counter(reasons).most_common())
    if not num_scored and fraction <= max_unscored_fraction:
        raise UnhealthyTrainingError(f"not one of {total} completions could be scored: {counted}")
    raise UnhealthyTrainingError(
        f"{num_unscored} of {total} completions ({fraction:.0%}) could not be scored, "
        f"more than `max_unscored_fraction` {max_unscored_fraction:.0%} allows: {counted}"
    )
