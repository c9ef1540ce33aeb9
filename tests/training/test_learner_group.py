"""What the end of a Ray Train group says about the learner."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError
from ray.train import WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from bolt_ray.core.errors import LearnerLostError, ModelError, RunError
from bolt_ray.training.lean_trainer import what_ended

DIED = WorkerHealthCheckFailedError("a worker health check failed", ActorDiedError())
PEER_GONE = UserExceptionWithTraceback(RuntimeError("Connection closed by peer\nsomewhere"), "Traceback …")


def group_error(**of_rank: Exception) -> WorkerGroupError:
    failures = {int(name.removeprefix("rank_")): error for name, error in of_rank.items()}
    return WorkerGroupError("a worker failed", failures)


@pytest.mark.parametrize("started", [False, True])
def test_a_process_that_died_is_a_loss_at_any_time(started: bool) -> None:
    error = what_ended(group_error(rank_1=DIED, rank_0=PEER_GONE), waiting_for="training step 7", started=started)
    assert type(error) is LearnerLostError
    assert "waiting for training step 7" in str(error)
    assert "rank 0: RuntimeError: Connection closed by peer" in str(error) and "rank 1: ActorDiedError" in str(error)


def test_what_a_rank_raises_at_work_is_a_loss_and_while_it_is_built_an_error() -> None:
    broken = group_error(rank_0=PEER_GONE)
    assert type(what_ended(broken, waiting_for="a step", started=True)) is LearnerLostError
    assert type(what_ended(broken, waiting_for="the start", started=False)) is RunError


def test_the_projects_own_error_of_a_rank_is_what_is_raised() -> None:
    own = ModelError("config.json is no model")
    error = what_ended(group_error(rank_0=PEER_GONE, rank_1=own), waiting_for="the start", started=False)
    assert error is own
    wrapped = group_error(rank_0=UserExceptionWithTraceback(own, "Traceback …"))
    assert what_ended(wrapped, waiting_for="the start", started=False) is own


def test_a_group_that_ended_without_a_reason_is_lost() -> None:
    assert type(what_ended(None, waiting_for="a step", started=True)) is LearnerLostError
