"""Datasets that are made rather than read, as the files that a run reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bolt_ray.commands.evaluate.evaluate import heldout_only
from bolt_ray.commands.shared.made_datasets import datasets_as_files
from bolt_ray.config.loading import build_config
from bolt_ray.config.resolve import resolve
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.curriculum import Curriculum
from bolt_ray.core.errors import ConfigError
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.data.stream.draw_log import draw_window, window_rng

pytest.importorskip("reasoning_gym", reason="an optional extra: see requirements/extra.in")

SHORT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}


def config_of(tmp_path: Path, **settings: Any) -> RunConfig:
    tree: dict[str, Any] = {
        "datasets": [
            {"name": "reasoning_gym/chain_sum", "size": 60, "options": SHORT, "reward": "reasoning_gym", "weight": 2},
            {"name": "arithmetic", "reward": "arithmetic"},
        ],
        "eval": {"datasets": [{"name": "reasoning_gym/chain_sum", "size": 40, "seed": 1, "options": SHORT}]},
        "rewards": ["reasoning_gym", "arithmetic"],
        "data": {"store_dir": str(tmp_path / "stores")},
        "arithmetic": {"num_train": 30, "num_heldout": 5, "cache_dir": str(tmp_path / "cache")},
    }
    return build_config(tree | settings)


def prompts(dataset: DatasetSettings) -> set[str]:
    return {json.loads(line)["prompt"] for line in Path(dataset.name).read_text().splitlines()}


def test_tasks_are_made_once_and_mixed_with_other_datasets(tmp_path: Path) -> None:
    said: list[str] = []
    train, heldout = datasets_as_files(config_of(tmp_path), say=said.append, show_progress=False)
    assert [(one.source, one.reward, one.weight, one.task) for one in train] == [
        ("chain_sum", "reasoning_gym", 2.0, None),
        ("arithmetic", "arithmetic", None, None),
    ]
    assert [len(prompts(one)) for one in (*train, *heldout)] == [60, 30, 40]
    assert not prompts(train[0]) & prompts(heldout[0])
    assert [line.split(" in ")[0] for line in said] == [
        "Made 40 problems of chain_sum",
        "Made 60 problems of chain_sum",
    ] or len(said) == 1
    again: list[str] = []
    assert datasets_as_files(config_of(tmp_path), say=again.append, show_progress=False) == (train, heldout)
    assert again == []


def test_an_evaluation_finds_the_problems_that_training_was_evaluated_on(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    _, heldout = datasets_as_files(config, say=lambda text: None, show_progress=False)
    alone = heldout_only(config, None)
    train, evaluated = datasets_as_files(alone, say=lambda text: None, show_progress=False)
    assert evaluated == heldout and train == evaluated, "nothing is made to train on"


def test_evaluate_takes_another_task_and_a_file_in_place_of_a_task(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (task,) = heldout_only(config, "reasoning_gym/spell_backward").datasets
    assert (task.task, task.size, task.seed, task.options) == ("spell_backward", 40, 1, {})
    (file,) = heldout_only(config, "problems.jsonl").datasets
    assert (file.task, file.size, file.seed, file.options) == (None, None, 0, {})
    with pytest.raises(ConfigError, match=r"--dataset reasoning_gym/gcd is made: name it in eval.datasets"):
        heldout_only(config_of(tmp_path, eval={}, datasets=[{"name": "arithmetic"}]), "reasoning_gym/gcd")


def test_fresh_problems_are_as_many_as_are_drawn_and_each_is_drawn_once(tmp_path: Path) -> None:
    config = resolve(
        config_of(
            tmp_path,
            datasets=[{"name": "arithmetic"}],
            eval={},
            algo="reinforce",
            arithmetic={
                "fresh": True,
                "negative_fraction": 0.5,
                "cache_dir": str(tmp_path / "cache"),
                "num_heldout": 5,
            },
            train={"max_steps": 6},
            rollout={"rollouts_per_step": 10, "max_staleness": 1},
        ),
        use_gpu=False,
    )
    assert resolve(config, use_gpu=False) == config
    (train,), _ = datasets_as_files(config, say=lambda text: None, show_progress=False)
    rows = prompts(train)
    # Six steps of ten, one more in flight, and one that keeps the next window from being drawn.
    assert len(rows) == config.arithmetic.num_train == 80
    assert any("-" in prompt for prompt in rows)
    curriculum = Curriculum(config.curriculum, seed=0)
    assert curriculum.settings.window_steps == curriculum.settings.update_freq == 8
    import numpy as np

    drawn = draw_window(np.ones(80), size=80, distinct=80, rng=window_rng(0, 0), source_ids=None, source_weights=None)
    assert len(set(drawn.tolist())) == 80
