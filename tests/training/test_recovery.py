"""Attempts follow one another from the newest checkpoint that can be read, as often as is allowed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.core.errors import CheckpointError, LearnerLostError, RunError, StallError
from bolt_ray.training.checkpoints import write_checkpoint
from bolt_ray.training.loop import LoopOutcome
from bolt_ray.training.recovery import StartingPoint, train_with_recovery
from bolt_ray.training.run_directory import RunDirectory

DONE = LoopOutcome(steps=9, initial_score=None, final=None, seconds=1.0, interrupted=False)
NEW = StartingPoint(checkpoint=None, state=None)


def save(run: RunDirectory, step: int) -> Path:
    state = {"step": step, "version": step - 1}
    return write_checkpoint(run, step=step, state=state, write_parts=lambda directory: {}, keep=9)


class Attempts:
    """Attempts that do what ``scripts`` say, one after the other; ``starts`` are where they began."""

    def __init__(self, run: RunDirectory, *scripts: Callable[[], LoopOutcome], began: bool = True) -> None:
        self.starts: list[tuple[str | None, int, int]] = []
        self.began = began
        self.said: list[str] = []
        self._run = run
        self._scripts = iter(scripts)

    def __call__(self, start: StartingPoint) -> Attempts:
        name = None if start.checkpoint is None else start.checkpoint.name
        self.starts.append((name, start.step, start.restarts))
        return self

    def train(self) -> LoopOutcome:
        return next(self._scripts)()

    def go(self, first: StartingPoint = NEW, **cluster: float) -> LoopOutcome:
        settings = ClusterSettings(**cluster)  # type: ignore[arg-type]
        return train_with_recovery(self, first, run=self._run, cluster=settings, say=self.said.append)


def lost() -> LoopOutcome:
    raise LearnerLostError("rank 1 died")


def test_each_attempt_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)

    def four_steps() -> LoopOutcome:
        save(run, 2)
        save(run, 4)
        return lost()

    attempts = Attempts(run, lost, four_steps, lambda: DONE)
    outcome = attempts.go(StartingPoint(checkpoint=None, state=None, since=time.monotonic() - 100.0))
    assert outcome == replace(DONE, seconds=outcome.seconds)
    assert 100.0 < outcome.seconds < 200.0, "of all attempts"
    assert attempts.starts == [(None, 0, 0), (None, 0, 1), ("step-000004", 4, 2)]
    assert attempts.said == [
        "Warning: the learner is lost and starts again from the first weights: rank 1 died",
        "Warning: the learner is lost and starts again from step-000004: rank 1 died",
    ]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    save(run, 2)
    (save(run, 4) / "state.json").write_text("{}")
    attempts = Attempts(run, lost, lambda: DONE)
    attempts.go()
    assert attempts.starts[1] == ("step-000002", 2, 1)
    assert "step-000004 cannot be used" in attempts.said[0] and "state.json" in attempts.said[0]


def test_with_only_damaged_checkpoints_a_run_does_not_begin_anew(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    (save(run, 4) / "state.json").unlink()
    attempts = Attempts(run, lost)
    with pytest.raises(CheckpointError, match=r"no checkpoint there is whole .*state.json"):
        attempts.go()
    assert len(attempts.starts) == 1


def test_without_the_checkpoint_it_went_on_from_a_run_does_not_begin_anew_either(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    first = StartingPoint(checkpoint=run.checkpoints / "step-000002", state={"step": 2, "version": 1})
    attempts = Attempts(run, lost)
    with pytest.raises(CheckpointError, match="its checkpoints are gone"):
        attempts.go(first)


def test_an_attempt_that_never_began_is_followed_by_one_from_the_same_place(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    older = save(run, 2)
    save(run, 4)  # of a branch that the user goes back from
    first = StartingPoint(checkpoint=older, state={"step": 2, "version": 1})
    attempts = Attempts(run, lost, lambda: DONE, began=False)
    attempts.go(first)
    assert attempts.starts == [("step-000002", 2, 0), ("step-000002", 2, 1)]


def test_too_many_losses_end_in_one_error_that_names_the_setting(tmp_path: Path) -> None:
    attempts = Attempts(RunDirectory(tmp_path), lost, lost, lost)
    with pytest.raises(RunError, match=r"lost 3 times within 60 s.*cluster.max_learner_restarts: 2.*rank 1 died"):
        attempts.go(max_learner_restarts=2, failure_window_s=60.0)
    assert len(attempts.starts) == 3


def test_every_other_error_ends_the_run(tmp_path: Path) -> None:
    def stalled() -> LoopOutcome:
        raise StallError("no completion arrived")

    attempts = Attempts(RunDirectory(tmp_path), stalled)
    with pytest.raises(StallError):
        attempts.go()
    assert len(attempts.starts) == 1
