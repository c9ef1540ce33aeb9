"""Learning-rate schedules: pure functions of the step, so a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ScheduleName = Literal["constant", "cosine", "linear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LearningRateSchedule:
    """Linear warm-up, then constant, cosine or linear decay.

    Step s of the warm-up uses ``peak · (s + 1) / warmup_steps``: the first step already moves, and the last one of
    the warm-up runs at the peak. Decay goes from the peak, at the first step after the warm-up, to
    ``peak · min_ratio`` at step ``total_steps - 1`` and stays there.

    Attributes:
        name: what follows the warm-up.
        peak: the highest rate.
        warmup_steps: length of the warm-up, in steps; 0 for none.
        total_steps: length of the run, in steps.
        min_ratio: final rate over peak, in [0, 1].
    """

    name: ScheduleName
    peak: float
    warmup_steps: int
    total_steps: int
    min_ratio: float

    def __post_init__(self) -> None:
        if self.name not in ("constant", "cosine", "linear"):
            raise ValueError(f"unknown schedule {self.name!r}: use constant, cosine or linear")
        if self.warmup_steps < 0 or not 0.0 <= self.min_ratio <= 1.0:
            raise ValueError("warmup_steps must be at least 0 and min_ratio within [0, 1]")

    def at(self, step: int) -> float:
        """The rate of step ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.name == "constant":
            return self.peak
        span = max(1, self.total_steps - 1 - self.warmup_steps)
        progress = min(1.0, (step - self.warmup_steps) / span)
        shape = 0.5 * (1.0 + math.cos(math.pi * progress)) if self.name == "cosine" else 1.0 - progress
        return self.peak * (self.min_ratio + (1.0 - self.min_ratio) * shape)
