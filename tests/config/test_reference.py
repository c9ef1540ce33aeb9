"""The settings explained: complete, current, and a schema that agrees with the loader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from bolt_ray.cli import app
from bolt_ray.config.loading import build_config
from bolt_ray.config.reference import explain, json_schema, markdown
from bolt_ray.config.tree import walk
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.metric_names import is_declared

ROOT = Path(__file__).parents[2]
CONFIGS = [*sorted((ROOT / "configs").glob("*.yaml")), *sorted((ROOT / "bolt_ray" / "templates").glob("*/config.yaml"))]
SMALLEST = {"datasets": [{"name": "x.jsonl"}], "rewards": ["math"]}


def test_every_setting_has_a_meaning() -> None:
    silent = [".".join(place) for place, field in walk() if len(field.description) < 5]
    assert silent == []
    assert len(list(walk())) > 300


def test_the_pages_are_current() -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import generate_docs
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    hint = "run scripts/generate_docs.py"
    assert (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8") == markdown(), hint
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == generate_docs.metrics_page(), hint


def test_a_name_in_braces_stands_for_any() -> None:
    assert is_declared("reward/part/style") and is_declared("eval/gsm8k/pass@1") and is_declared("reward/mean")
    assert not is_declared("reward/part/") and not is_declared("reward/median")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train.learning_rate", ["peak of the learning rate", "default: auto"]),
        ("loss.type", ["grpo, dapo", "file.py:name", "default: dapo"]),
        ("rewards.math.decimals", ["places", "default: 6"]),
        ("eval.datasets.name", ["a file, a glob", "required"]),
        ("deadlines", ["deadlines.step_s [s]", "deadlines.sync_s [s]"]),
    ],
)
def test_explain(key: str, words: list[str]) -> None:
    text = explain(key)
    assert all(word in text for word in words), text
    shown = CliRunner().invoke(app, ["config", "explain", key])
    assert (shown.exit_code, shown.output.strip()) == (0, text)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("rollout.temperature", "here that is sampling.temperature"),
        ("train.beta", "here that is kl.coef"),
        ("beta", "here that is kl.coef"),
        ("actor_rollout_ref.rollout.n", "here that is rollout.group_size"),
        ("train.gradient_checkpointing", "there is model.gradient_checkpointing (recompute"),
        ("train.warmup_step", "did you mean 'warmup_steps'?"),
        ("warmup_step", "did you mean 'train.warmup_steps'?"),
    ],
)
def test_an_unknown_key_is_explained_as_the_loader_does(key: str, hint: str) -> None:
    refused = CliRunner().invoke(app, ["config", "explain", key]).exception
    assert isinstance(refused, ConfigError)
    assert str(refused).startswith(f"there is no setting {key!r}; {hint}")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_the_schema_takes_every_config_that_is_shipped(path: Path) -> None:
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), json_schema())


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": {"max_step": 3}},
        {"train": {"max_steps": 0}},
        {"model": {"dtype": "float16"}},
        {"rewards": [{"type": "math", "decimal": 2}]},
        {"datasets": []},
    ],
)
def test_schema_and_loader_refuse_the_same(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(SMALLEST | wrong, json_schema())
    with pytest.raises(ConfigError):
        build_config(SMALLEST | wrong)
