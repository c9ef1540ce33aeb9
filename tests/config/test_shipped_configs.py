"""Every config file that ships loads, and says in one step what it says in its comments."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from support.models import make_model

from bolt_ray.commands.validate import print_validation
from bolt_ray.config.loading import load_config
from bolt_ray.config.schema import RunConfig

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
RECIPES = ("gsm8k_0.5b", "math_1.5b", "dapo17k_7b")


def twins_of(path: Path) -> list[list[str]]:
    """The overrides of the twins that the comments of a recipe name."""
    found = re.findall(rf"{path.name} (algo=\S+) (name=\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return [list(overrides) for overrides in found]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_it_is_valid(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    here = ["cluster.use_gpu=no"]
    if path.name == "reasoning_gym.yaml":  # its model is taught first
        pytest.importorskip("reasoning_gym")
        model = make_model(tmp_path / "model", tie_embeddings=True, chat_template=None)
        here += [f"model.name_or_path={model}", f"data.store_dir={tmp_path}"]
    for overrides in ([], *twins_of(path)):
        printed = io.StringIO()
        print_validation(load_config(path, [*overrides, *here]), console=Console(file=printed))
        assert "completions" in printed.getvalue() and "Warning" not in printed.getvalue()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_and_its_twin_differ_in_the_algorithm_alone(name: str) -> None:
    path = ROOT / "configs" / f"{name}.yaml"
    ours = load_config(path)
    twins = {overrides[0]: load_config(path, overrides) for overrides in twins_of(path)}
    assert "algo=grpo" in twins
    own = {"algo", "name", "advantage", "curriculum", "loss", "rollout", "baseline"}
    for twin in twins.values():
        assert shared(twin, own) == shared(ours, own)
        assert (twin.rollout.group_size, ours.rollout.group_size) == (8, 1)
        assert twin.rollout.rollouts_per_step == ours.rollout.rollouts_per_step
        assert twin.rollout.max_staleness == ours.rollout.max_staleness
        assert twin.loss.mask_truncated == ours.loss.mask_truncated
        assert twin.advantage.baseline == "group"


def shared(config: RunConfig, own: set[str]) -> dict[str, object]:
    return config.model_dump(exclude=own)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_evaluated_on_other_problems_than_it_trains_on(name: str) -> None:
    config = load_config(ROOT / "configs" / f"{name}.yaml")
    trained = {(dataset.name, dataset.split) for dataset in config.datasets}
    tested = {(dataset.name, dataset.split) for dataset in config.eval.datasets}
    assert tested and not tested & trained
    assert all(split == "test" for _, split in tested)


def test_there_are_some() -> None:
    assert "quickstart.yaml" in {path.name for path in CONFIGS}
