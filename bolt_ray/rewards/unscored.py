"""Counts completions without a verdict: a few are noise, many mean that the reward itself is broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from bolt_ray.core.errors import UnhealthyTrainingError


def reason_kind(reason: str) -> str:
    """The countable part of a reason: ``"own: exception: ValueError: x"`` → ``"own: exception"``."""
    return ": ".join(reason.split(": ")[:2])


def unscored_metric(kind: str) -> str:
    """The name a kind of reason is counted under: ``"own: exception"`` → ``"reward/unscored/own/exception"``."""
    return "reward/unscored/" + kind.replace(": ", "/")


def count_reasons(reasons: Iterable[str]) -> dict[str, int]:
    """How often each kind of reason occurs, the most frequent first."""
    return dict(Counter(reason_kind(reason) for reason in reasons).most_common())


def unscored_fraction(*, num_scored: int, num_unscored: int) -> float:
    """Share of completions without a verdict; 0.0 where there were none at all."""
    total = num_scored + num_unscored
    return num_unscored / total if total else 0.0


def check_unscored(
    *,
    num_scored: int,
    reasons: Mapping[str, int],
    max_unscored_fraction: float,
    min_completions: int = 1,
) -> None:
    """Refuse to go on when too few completions get a verdict.

    Args:
        num_scored: completions with a reward in the window looked at.
        reasons: completions without one, by kind of reason.
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
