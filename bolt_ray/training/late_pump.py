"""Generation while the learner works, with what goes wrong in it put off."""

from __future__ import annotations

from bolt_ray.training.rollout import RolloutLoop


class LatePump:
    """Pumps the rollout loop during a call of the learner.

    An error of it waits until the learner is done, which would otherwise be a step ahead of the driver.
    """

    def __init__(self, rollout: RolloutLoop) -> None:
        self._rollout = rollout
        self._error: Exception | None = None

    def pump(self) -> None:
        """Move what is ready. An interrupt is not looked for: it is only after the step."""
        if self._error is None:
            try:
                self._rollout.pump(0.0)
            except Exception as error:  # noqa: BLE001 - raised by check
                self._error = error

    def check(self, *, after: Exception | None = None) -> None:
        """Raise the error that came; ``after``: the one it led to, if there is one."""
        if self._error is not None:
            raise self._error from after
