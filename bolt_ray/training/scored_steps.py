"""The completions of each step, with enough rewards to train on."""

from __future__ import annotations

import time
from collections.abc import Callable

from bolt_ray.rewards.unscored import UnscoredWatch, count_reasons
from bolt_ray.training.rollout import RolloutLoop, StepRollouts
from bolt_ray.training.telemetry.notices import Notices

LOOK_S = 0.5
"""How often a pause looks whether the run should end."""


class ScoredSteps:
    """Takes steps from the rollout loop; where too many completions lack a reward, they are made again after a pause.

    Args:
        unscored: decides.
        say: says a line to the user.
        now, sleep: a clock, in seconds of which only differences count, and its pauses.
    """

    def __init__(
        self,
        rollout: RolloutLoop,
        *,
        unscored: UnscoredWatch,
        notices: Notices,
        say: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rollout = rollout
        self._unscored = unscored
        self._notices = notices
        self._say = say
        self._now = now
        self._sleep = sleep

    def next(self, *, check: Callable[[], None]) -> StepRollouts:
        """Block until there is a step to train; ``check`` is called while a pause lasts, and may raise.

        Raises:
            UnhealthyTrainingError: rewards fail for too long.
        """
        while True:
            rollouts = self._rollout.next_step()
            reasons = count_reasons(item.reason for item in rollouts.unscored)
            self._notices.of_unscored(rollouts, reasons)
            num_scored, num_unscored = len(rollouts.trainable), len(rollouts.unscored)
            pause_s = self._unscored.judge(num_scored=num_scored, reasons=reasons)
            if pause_s == 0.0:
                return rollouts
            self._rollout.put_back()
            self._say(
                f"Warning: {num_unscored} of {num_scored + num_unscored} completions got no reward; all are made again "
                f"in {pause_s:.0f} s"
            )
            until = self._now() + pause_s
            while (left := until - self._now()) > 0.0:
                check()
                self._sleep(min(LOOK_S, left))
