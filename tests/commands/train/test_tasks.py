"""A tiny model taught a task of reasoning-gym, then trained on it beside the embedded problems."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from support.training_runs import steps_of, write_run_config

from bolt_ray.commands.pretrain.pretrain import run_pretraining
from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import load_config

pytest.importorskip("reasoning_gym", reason="an optional extra: see requirements/extra.in")

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

TASK = {
    "name": "reasoning_gym/chain_sum",
    "options": {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1},
}


def test_a_taught_model_is_trained_on_a_task_beside_arithmetic(ray_cluster: None, tmp_path: Path) -> None:
    model = tmp_path / "taught"
    path = write_run_config(
        tmp_path,
        model_path=model,
        datasets=[
            {**TASK, "size": 60, "reward": "reasoning_gym"},
            {"name": "arithmetic", "reward": "arithmetic"},
        ],
        rewards=["reasoning_gym", "arithmetic"],
        arithmetic={"num_train": 60, "num_heldout": 10, "cache_dir": str(tmp_path / "cache")},
        data={"heldout_size": 0},
        eval={"datasets": [{**TASK, "size": 20, "seed": 1, "reward": "reasoning_gym"}], "every_steps": 0},
        pretrain={"steps": 100, "warmup_steps": 10},
    )
    run_pretraining(path, [], data=None, pretrain={}, output=None, console=Console(quiet=True))
    config = load_config(path)
    outcome = train(config, console=Console(quiet=True))
    assert outcome.steps == 3 and outcome.final is not None
    steps = steps_of(outcome.run_directory)
    assert [step["reward/unscored_fraction"] for step in steps] == [0.0, 0.0, 0.0]
    assert all(f"reward/part/{name}" in " ".join(steps[0]) for name in ("reasoning_gym", "arithmetic"))
    assert (outcome.run_directory / "final" / "model.safetensors").is_file()
