"""Training that outlives its learner: another attempt from the last checkpoint whenever one is lost.

    attempt ──LearnerLostError──▶ newest usable checkpoint (none: the first weights) ──▶ attempt ──▶ …

Weights, optimizer, baseline, curriculum, stream and requests in flight go back together, as on a resume.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.core.budget import Budget
from bolt_ray.core.errors import CheckpointError, LearnerLostError, RunError
from bolt_ray.core.evaluation.summary import Score
from bolt_ray.training.checkpoints import newest_usable
from bolt_ray.training.loop import LoopOutcome
from bolt_ray.training.run_directory import RunDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingPoint:
    """Where an attempt begins.

    Attributes:
        checkpoint: what it goes on from; None: the first weights.
        state: of the checkpoint, as `read_checkpoint` gives it; None with none.
        restarts: attempts of this process before it.
        since: when the first of these began, on the clock of ``time.monotonic``.
    """

    checkpoint: Path | None
    state: dict[str, Any] | None
    restarts: int = 0
    since: float = field(default_factory=time.monotonic)

    @property
    def step(self) -> int:
        """Finished steps."""
        return int(self.state["step"]) if self.state else 0

    @property
    def version(self) -> int:
        """The policy's."""
        return int(self.state["version"]) if self.state else 0

    @property
    def initial_score(self) -> Score | None:
        """Of the evaluation before the first step; None if there is none yet."""
        score = self.state["initial_score"] if self.state else None
        return None if score is None else Score(**score)


class Attempt(Protocol):
    """Training with one learner group.

    Attributes:
        began: whether it came to the training loop, so that later checkpoints are its own.
    """

    began: bool

    def train(self) -> LoopOutcome: ...


def train_with_recovery(
    make_attempt: Callable[[StartingPoint], Attempt],
    first: StartingPoint,
    *,
    run: RunDirectory,
    cluster: ClusterSettings,
    say: Callable[[str], None],
) -> LoopOutcome:
    """Train from ``first``, and again from the newest checkpoint each time that the learner is lost.

    Args:
        cluster: says how often.
        say: says a line to the user.

    Returns:
        How the last attempt ended; after others its ``seconds`` are those of all, with the starts between them.

    Raises:
        RunError: the learner was lost too often.
        CheckpointError: the run's checkpoints are all damaged.
        BoltRayError: whatever else ends an attempt.
    """
    budget = Budget(cluster.max_learner_restarts, window_s=cluster.failure_window_s)
    start = first
    while True:
        attempt = make_attempt(start)
        try:
            outcome = attempt.train()
            return replace(outcome, seconds=time.monotonic() - start.since) if start.restarts else outcome
        except LearnerLostError as error:
            log.warning("the learner is lost", exc_info=True)
            if not budget.spend():
                raise RunError(
                    f"the learner was lost {budget.spent} times within {budget.window_s:.0f} s, more often than "
                    f"cluster.max_learner_restarts: {budget.limit} allows; the last time: {error}. Its checkpoints are "
                    "kept: resume goes on from the last one"
                ) from error
            start = _next_start(start, run, own=attempt.began, say=say)
            where = "the first weights" if start.checkpoint is None else start.checkpoint.name
            say(f"Warning: the learner is lost and starts again from {where}: {error}")


def _next_start(start: StartingPoint, run: RunDirectory, *, own: bool, say: Callable[[str], None]) -> StartingPoint:
    """``own``: all checkpoints are of this run's own steps; before an attempt began, later ones may not be."""
    checkpoint, state = start.checkpoint, start.state
    if own:
        found = newest_usable(run)
        if found is None and start.checkpoint is not None:
            raise CheckpointError(f"{run.checkpoints}: the learner is lost, and its checkpoints are gone")
        for place, why in found.refused if found else ():
            say(f"Warning: checkpoint {place} cannot be used: {why}")
        checkpoint, state = (found.path, found.state) if found else (None, None)
    return replace(start, checkpoint=checkpoint, state=state, restarts=start.restarts + 1)
