"""BoltTrainerMixin before a class that was patched the way Unsloth patches TRL's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from support.patched_grpo import UnslothGRPOConfig, UnslothGRPOTrainer
from support.trl_runs import evidence, trainer

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.integrations.trl import BoltConfigMixin, BoltTrainerMixin


@dataclass
class Config(BoltConfigMixin, UnslothGRPOConfig):
    """As BoltConfig is where Unsloth was imported first."""


class Trainer(BoltTrainerMixin, UnslothGRPOTrainer):
    """As BoltGRPOTrainer is where Unsloth was imported first."""


def test_a_patched_class_learns_with_the_baseline(tmp_path: Path, tiny_model: Path) -> None:
    run = trainer(tiny_model, tmp_path, kind=Trainer, config=Config, unsloth_num_chunks=2)
    assert run.chunks == 2 and run.args.num_generations == 1
    run.train()
    assert run.state.log_history[0]["grad_norm"] > 0.0
    assert run.state.log_history[0]["completion_length"] > 0.0
    assert len(evidence(run.baseline.store)) > 8
    assert run.baseline.store.counters.drift_total > 0.0


def test_its_beta_follows_the_controller_and_its_shapes_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    """Its loss hands no log-probs out: a shape would silently do nothing."""
    run = trainer(
        tiny_model,
        tmp_path,
        kind=Trainer,
        config=Config,
        beta=0.04,
        kl_adaptation_method="dynamic",
        beta_schedule_steps=1,
    )
    run.train()
    assert run.beta == 0.0
    shaped = trainer(tiny_model, tmp_path, kind=Trainer, config=Config, beta=0.04, kl_adaptation_method="clip")
    with pytest.raises(EnvironmentProblem, match="UnslothGRPOTrainer computes its loss without showing the log-probs"):
        shaped.train()


class WithoutRewards(UnslothGRPOTrainer):
    """A class that scores in a way of its own."""

    def _generate_and_score_completions(self, inputs: object) -> dict[str, object]:
        return {}


def test_a_class_that_scores_in_another_way_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    class Mixed(BoltTrainerMixin, WithoutRewards):
        pass

    run = trainer(tiny_model, tmp_path, kind=Mixed, config=Config)
    with pytest.raises(EnvironmentProblem, match="WithoutRewards scores completions without _calculate_rewards"):
        run.train()
