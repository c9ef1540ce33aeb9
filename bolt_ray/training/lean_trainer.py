"""Ray Train as the learner uses it: fewer processes, owner and room of the ranks known, its end told in our words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from bolt_ray.actors.ray_results import first_line
from bolt_ray.core.errors import BoltRayError, LearnerLostError, RunError

NOT_NEEDED = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Parts of Ray Train that start a process each: for datasets handed to the workers, which get none, and for placement
groups whose controller is gone, which the learner's group removes itself."""


class LeanTrainer(DataParallelTrainer):  # type: ignore[misc]  # Ray Train has no types
    """Starts two processes less, about 4 s of CPU time on a laptop; where Ray Train has other names, it starts them.

    Args:
        mailbox: the actor that is told who owns the ranks; None tells nobody.
    """

    def __init__(self, *given: Any, mailbox: Any = None, **named: Any) -> None:
        self._mailbox = mailbox
        super().__init__(*given, **named)

    def _create_default_callbacks(self) -> list[Any]:
        made = [part for part in super()._create_default_callbacks() if type(part).__name__ not in NOT_NEEDED]
        return made if self._mailbox is None else [*made, TellsOwners(self._mailbox)]


class TellsOwners(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]
    """Hands to the mailbox, from within the group's controller, what ends the ranks wherever they are: the controller
    itself, and the placement group they live in."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def after_controller_start(self, train_run_context: Any) -> None:
        self._mailbox.set_owner.remote("controller", ray.get_runtime_context().current_actor)

    def after_worker_group_start(self, worker_group: Any) -> None:
        placement = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self._mailbox.set_owner.remote("placement", placement)


def what_ended(error: BaseException | None, *, waiting_for: str, started: bool) -> BoltRayError:
    """Why a group is no more: the error of the project that a rank raised, or else that it is lost.

    Args:
        error: of Ray Train.
        started: whether it has been at work; what a rank raises while it is built, it would raise again.
    """
    errors = getattr(error, "worker_failures", None) or {0: error}
    chains = {rank: list(_causes(each)) for rank, each in errors.items()}
    causes = [cause for chain in chains.values() for cause in chain]
    own = next((cause for cause in causes if isinstance(cause, BoltRayError)), None)
    if own is not None:
        return own
    reasons = "; ".join(f"rank {rank}: {first_line(chain[-1])}" for rank, chain in chains.items() if chain)
    text = f"the learner ended while waiting for {waiting_for}: {reasons}"
    died = any(isinstance(cause, RayActorError) for cause in causes)
    return LearnerLostError(text) if started or died else RunError(text)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it was raised from, the way Python, Ray and Ray Train keep that."""
    while error is not None:
        yield error
        kept = (getattr(error, name, None) for name in ("__cause__", "cause", "health_check_failure", "_base_exc"))
        error = next((cause for cause in kept if isinstance(cause, BaseException)), None)
