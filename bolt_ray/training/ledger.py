"""What became of every completion asked for: dispatched = trained + dropped + in flight, at every step.

A checkpoint keeps the counts beside the requests in flight. These are issued again under their numbers and stay counted
once; what was asked for after the checkpoint is forgotten with everything else that happened since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, get_args

from bolt_ray.core.errors import RunError
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import DropReason

declare_metrics(
    {
        "rollout/dispatched_total": ("completions", "completions of training asked for so far"),
        "rollout/trained_total": ("completions", "of these, trained on by a step that changed the weights"),
        "rollout/dropped_total": ("completions", "of these, left out of training, for whatever reason"),
        "rollout/dropped_{reason}_total": (
            "completions",
            "the same by reason: stale, zero_variance, unscored, masked (loss.mask_truncated, or without a token) or "
            "skipped (the step's loss or gradient was not finite)",
        ),
        "rollout/in_flight": (
            "completions",
            "the others after the step: being generated, scored, or ready for a later step",
        ),
    }
)


class Ledger:
    """Counts completions of training.

    Args:
        dispatched: asked for.
        trained: trained on.
        dropped: left out of training, by reason.
    """

    def __init__(
        self, *, dispatched: int = 0, trained: int = 0, dropped: Mapping[DropReason, int] | None = None
    ) -> None:
        self.dispatched = dispatched
        self.trained = trained
        self.dropped: Counter[DropReason] = Counter(dropped)

    def end(self, reason: DropReason | None) -> None:
        """One completion is in flight no more: trained, or dropped for ``reason``."""
        if reason is None:
            self.trained += 1
        else:
            self.dropped[reason] += 1

    def check(self, in_flight: int) -> None:
        """Compare with the requests in flight.

        Raises:
            RunError: a completion was lost or counted twice.
        """
        if self.dispatched != self.trained + self.dropped.total() + in_flight:
            raise RunError(f"the completions do not add up: {self.account(in_flight, sign='≠')}")

    def account(self, in_flight: int, *, sign: str = "=") -> str:
        """As in "96 dispatched = 64 trained + 8 dropped (6 stale, 2 unscored) + 24 in flight"."""
        reasons = ", ".join(f"{self.dropped[reason]:,} {reason}" for reason in _REASONS if self.dropped[reason])
        dropped = f"{self.dropped.total():,} dropped" + (f" ({reasons})" if reasons else "")
        return f"{self.dispatched:,} dispatched {sign} {self.trained:,} trained + {dropped} + {in_flight:,} in flight"

    def metrics(self, in_flight: int) -> dict[str, float]:
        """``rollout/*_total`` and ``rollout/in_flight``; a reason from its first completion on."""
        return {
            "rollout/dispatched_total": float(self.dispatched),
            "rollout/trained_total": float(self.trained),
            "rollout/dropped_total": float(self.dropped.total()),
            "rollout/in_flight": float(in_flight),
            **{f"rollout/dropped_{reason}_total": float(count) for reason, count in self.dropped.items()},
        }

    def state_dict(self) -> dict[str, Any]:
        return {"dispatched": self.dispatched, "trained": self.trained, "dropped": dict(self.dropped)}


_REASONS: tuple[DropReason, ...] = get_args(DropReason)
