"""A driver whose run directory was taken over writes no checkpoint there; checkpoints hold what a resume needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.effects import Workplace, config_of
from support.models import make_model
from support.wired_run import LearnerPart, run_once

from bolt_ray.config.loading import read_yaml
from bolt_ray.core.records import StepReport, TrainingBatch


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.chdir(tmp_path)
    return Workplace(directory=tmp_path, model=make_model(tmp_path / "model", tie_embeddings=True))


def test_a_driver_that_was_taken_for_dead_stops_before_its_next_checkpoint(here: Workplace) -> None:
    class Paused(LearnerPart):
        """Sleeps in its third step until another driver has the directory."""

        def train(self, batch: TrainingBatch, *, timeout_s: float, idle: Callable[[], None]) -> StepReport:
            if batch.step == 2:
                owner = '{"pid": 7, "host": "there", "token": "other"}'
                (here.directory / "run" / "driver" / "000002.json").write_text(owner)
            return super().train(batch, timeout_s=timeout_s, idle=idle)

    run = run_once(config_of({"checkpoint.every_steps": 1, "checkpoint.keep": 9}), here, learner_part=Paused)
    assert "no longer this driver's, process 7 on there has taken it over" in run["problem"]
    assert run["checkpoints"] == ["step-000001", "step-000002"]


def test_a_loss_while_the_parts_are_written_leaves_no_checkpoint(here: Workplace) -> None:
    class Slow(LearnerPart):
        """Takes so long to save that another driver takes the directory over."""

        def save(self, *, directory: Path, model_directory: Path, **given: object) -> object:
            (here.directory / "run" / "driver" / "000001.json").unlink()
            return super().save(directory=directory, model_directory=model_directory, **given)  # type: ignore[arg-type]

    run = run_once(config_of({"checkpoint.every_steps": 1}), here, learner_part=Slow)
    assert "it was taken over or removed" in run["problem"]
    assert not any(name.startswith("step-") for name in run["checkpoints"])


def test_a_checkpoint_holds_the_settings_and_the_draws(here: Workplace) -> None:
    run_once(config_of({"train.max_steps": 2}), here)
    checkpoint = here.directory / "run" / "checkpoints" / "step-000002"
    assert read_yaml(checkpoint / "config.yaml") == read_yaml(here.directory / "run" / "config.yaml")
    assert (checkpoint / "draws").is_dir()
    assert not (here.directory / "run" / "driver" / "000002.json").exists()
