"""Counts completions without a verdict: a few are noise, many mean that the reward itself is broken."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from bolt_ray.core.errors import UnhealthyTrainingError
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import UnscoredReason

WINDOW_STEPS = 4
"""Steps over which a single bad one is looked at."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 120.0
PAUSED_ALONE_S = 30.0
"""How long a bad step among good ones is tried again before it is trained as it is."""

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
    problem = _problem(num_scored, reasons, max_unscored_fraction)
    if problem and num_scored + sum(reasons.values()) >= min_completions:
        raise UnhealthyTrainingError(problem)


class UnscoredWatch:
    """Decides step by step whether enough completions got a verdict to train on the rest.

    A reward that worked may fail for a while, as a service that restarts; one that never worked is a mistake.

    Args:
        max_unscored_fraction: the share of a step that is tolerated, in [0, 1].
        patience_s: the longest time that one step is tried again, in pauses that grow.
        worked_before: the run has trained steps already.
        first_pause_s: each further pause is twice as long.
    """

    def __init__(
        self,
        *,
        max_unscored_fraction: float,
        patience_s: float,
        worked_before: bool = False,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        self._max_fraction = max_unscored_fraction
        self._patience_s = patience_s
        self._worked = worked_before
        self._last: deque[tuple[int, Mapping[UnscoredReason, int]]] = deque(maxlen=WINDOW_STEPS - 1)
        self._waited_s = 0.0
        self._first_pause_s = self._pause_s = first_pause_s

    def judge(self, *, num_scored: int, reasons: Mapping[UnscoredReason, int]) -> float:
        """Seconds to wait before the step's completions are made again; 0.0: train on those with a reward.

        Args:
            num_scored: completions of the step with a reward.
            reasons: completions of the step without one, by reason without detail.

        Raises:
            UnhealthyTrainingError: too few got a verdict, from the first step on or for ``patience_s``; the message
                counts the reasons.
        """
        problem = _problem(num_scored, reasons, self._max_fraction)
        if not problem or (num_scored and self._waited_s >= PAUSED_ALONE_S and self._alone(num_scored, reasons)):
            self._last.append((num_scored, reasons))
            self._worked, self._waited_s, self._pause_s = True, 0.0, self._first_pause_s
            return 0.0
        pause_s = min(self._pause_s, self._patience_s - self._waited_s)
        if not self._worked:
            raise UnhealthyTrainingError(problem)
        if pause_s <= 0.0:
            tried = f"; tried again for {self._waited_s:.0f} s (scoring.unscored_patience_s)"
            raise UnhealthyTrainingError(problem + tried)
        self._waited_s += pause_s
        self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)
        return pause_s

    def _alone(self, num_scored: int, reasons: Mapping[UnscoredReason, int]) -> bool:
        """Whether a bad step is one among good ones: its completions may be such as can never be scored."""
        steps = [*self._last, (num_scored, reasons)]
        all_reasons: Counter[UnscoredReason] = Counter()
        for _, of_step in steps:
            all_reasons.update(of_step)
        return not _problem(sum(scored for scored, _ in steps), all_reasons, self._max_fraction)


def _problem(num_scored: int, reasons: Mapping[UnscoredReason, int], max_fraction: float) -> str:
    """What is wrong with so many completions without a verdict; "" for nothing."""
    num_unscored = sum(reasons.values())
    fraction = unscored_fraction(num_scored=num_scored, num_unscored=num_unscored)
    if not num_unscored or (num_scored and fraction <= max_fraction):
        return ""
    counted = "; ".join(f"{count} × {reason}" for reason, count in Counter(reasons).most_common())
    if not num_scored and fraction <= max_fraction:
        return f"not one of {num_unscored} completions could be scored: {counted}"
    return (
        f"{num_unscored} of {num_scored + num_unscored} completions ({fraction:.0%}) could not be scored, "
        f"more than `max_unscored_fraction` {max_fraction:.0%} allows: {counted}"
    )
