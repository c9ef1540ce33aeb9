"""A run with stand-ins whose learner is lost goes on from its last checkpoint; generators and scorers stay."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.effects import Workplace, config_of
from support.models import make_model
from support.wired_run import LearnerPart, LostLearner, called, run_once

from bolt_ray.core.errors import LearnerLostError, ModelError
from bolt_ray.core.records import StepReport, TrainingBatch
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.record import read_metrics


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.chdir(tmp_path)
    return Workplace(directory=tmp_path, model=make_model(tmp_path / "model", tie_embeddings=True))


def steps_of(here: Workplace) -> list[dict[str, Any]]:
    records = read_metrics(RunDirectory(here.directory / "run").metrics_jsonl)
    return [record for record in records if "reward/mean" in record]


@pytest.mark.parametrize("every", [2, 0], ids=["from a checkpoint", "from the first weights"])
def test_a_run_that_lost_its_learner_ends_with_all_its_steps(here: Workplace, every: int) -> None:
    config = config_of({"train.max_steps": 6, "checkpoint.every_steps": every, "checkpoint.keep": 9})

    class Mortal(LearnerPart):
        """The first one dies in its fourth step."""

        lives = 0

        def __init__(self, calls: Any, **given: Any) -> None:
            super().__init__(calls, **given)
            type(self).lives += 1

        def train(self, batch: TrainingBatch, *, timeout_s: float, idle: Callable[[], None]) -> StepReport:
            if batch.step == 3 and self.lives == 1:
                raise LearnerLostError("rank 0 died")
            return super().train(batch, timeout_s=timeout_s, idle=idle)

    run = run_once(config, here, learner_part=Mortal)
    assert run["problem"] == ""
    assert Mortal.lives == 2
    steps = steps_of(here)
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    assert [record["policy_version"] for record in steps] == [1, 2, 3, 4, 5, 6]
    back = 2 if every else 0
    assert [record["cluster/learner_restarts"] for record in steps] == [0.0] * back + [1.0] * (6 - back)
    # What was drawn after the checkpoint is drawn again, the requests have the same seeds, and nothing is left over.
    size = config.rollout.rollouts_per_step
    draws, again = called(run, "prompts", "draw"), list(range(back * size, 6 * size))
    assert draws == [*range(4 * size), *again]
    asked = [request for batch in called(run, "generators", "generate") for request in batch]
    assert len({number for number, _ in asked}) == len(set(asked)) == 6 * size
    assert [record["rollout/dispatched_total"] for record in steps] == [size * step for step in range(1, 7)]
    ended = [record["rollout/trained_total"] + record["rollout/dropped_total"] for record in steps]
    assert ended == [size * step for step in range(1, 7)]
    assert called(run, "generators", "reset") == [back] and len(called(run, "scorers", "reset")) == 1
    assert len(called(run, "generators", "close")) == len(called(run, "scorers", "close")) == 1
    assert called(run, "shards", "restore") == (["step-000002"] if every else [])


def test_a_learner_that_is_lost_again_and_again_ends_the_run(here: Workplace) -> None:
    run = run_once(config_of({"cluster.max_learner_restarts": 2}), here, learner_part=LostLearner)
    assert "lost 3 times" in run["problem"] and "rank 0 died" in run["problem"]
    assert len(called(run, "learner", "wait_ready")) == 3


def test_ranks_that_end_while_generators_start_end_the_start(here: Workplace) -> None:
    """Generators may take minutes; what the ranks could not be built from is said at once."""

    class Unbuilt(LearnerPart):
        def check(self) -> None:
            raise ModelError("no directory /models/mine on the node worker-3")

        def wait_ready(self, *, timeout_s: float | None = None, idle: Callable[[], None]) -> None:
            raise AssertionError("only after the generators")

    run = run_once(config_of({}), here, learner_part=Unbuilt)
    assert run["problem"] == "no directory /models/mine on the node worker-3"
