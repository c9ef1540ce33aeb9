"""What ``validate`` says of a step."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.models import make_model

from bolt_ray.commands.shared.inputs import check_inputs
from bolt_ray.commands.shared.resources import describe_step
from bolt_ray.commands.train.observers import check_logging, describe_logging
from bolt_ray.commands.validate import print_validation
from bolt_ray.config.loading import build_config
from bolt_ray.config.resolve import resolve
from bolt_ray.core.errors import ConfigError, EnvironmentProblem

TWO = ["math", {"type": "format", "weight": 0.2}]


@pytest.mark.parametrize(
    ("baseline", "said", "warned"),
    [
        ({}, "Rewards of 0 to 1.2 are scaled to 0 to 1 for v̂", False),
        ({"reward_range": [0, 1]}, "Warning: they can be 0 to 1.2; what lies outside is cut", True),
        ({"reward_range": [-1, 2]}, "Rewards of -1 to 2 are scaled", False),
    ],
)
def test_the_range_of_rewards_is_said_before_the_run(baseline: dict[str, Any], said: str, warned: bool) -> None:
    config = build_config({"datasets": [{"name": "x.jsonl"}], "rewards": TWO, "baseline": baseline})
    text = describe_step(resolve(config, use_gpu=False))
    assert said in text
    assert ("Warning" in text) is warned


def test_datasets_whose_rewards_differ_are_told() -> None:
    sources = [{"name": "a.jsonl", "reward": "math"}, {"name": "b.jsonl", "reward": "exact"}]
    config = build_config({"datasets": sources, "rewards": ["math", {"type": "exact", "weight": 3}]})
    assert "the datasets' rewards differ (0 to 1, 0 to 3)" in describe_step(resolve(config, use_gpu=False))


def test_a_warm_start_of_one_s_own_is_told() -> None:
    config = build_config({"algo": "spo", "datasets": [{"name": "a.jsonl"}], "rewards": ["math"]})
    assert "Before the first step: 8 completions of every prompt" in describe_step(resolve(config, use_gpu=False))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It has a chat template that puts messages one behind the other and "=" behind them, and takes 64 tokens."""
    return make_model(tmp_path_factory.mktemp("model") / "model", tie_embeddings=False)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def said_of(model: Path, **settings: Any) -> str:
    tree = {
        "model": {"name_or_path": str(model)},
        "rewards": ["math"],
        "sampling": {"max_new_tokens": 16},
        "rollout": {"rollouts_per_step": 4},
        "train": {"max_steps": 5},
        **settings,
    }
    out = io.StringIO()
    print_validation(build_config(tree), console=Console(file=out, width=100))
    return out.getvalue().partition(" data ")[2]


def test_a_configuration_without_its_secrets_is_refused() -> None:
    cluster = {"address": "ray://***@head:10001"}
    config = build_config({"datasets": [{"name": "a.jsonl"}], "rewards": ["math"], "cluster": cluster})
    with pytest.raises(ConfigError, match=r"cluster\.address: its secret was left out of this file"):
        check_inputs(config)


def test_secrets_are_not_printed(model: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "2+5=", "answer": "7"}])
    out = io.StringIO()
    config = build_config(
        {
            "model": {"name_or_path": str(model)},
            "datasets": [{"name": str(tmp_path / "rows.jsonl")}],
            "rewards": ["math"],
            "logging": {"wandb_tags": ["http://me:hunter2@judge/"]},
            "sampling": {"max_new_tokens": 16},
        }
    )
    print_validation(config, console=Console(file=out, width=100))
    assert "http://***@judge/" in out.getvalue() and "hunter2" not in out.getvalue()


def test_data_are_shown_as_the_model_gets_them(model: Path, tmp_path: Path) -> None:
    ask = [{"role": "user", "content": "2+5"}]
    rows = [
        {"messages": ask, "solution": "so \\boxed{7}"},
        {"messages": [{"role": "user", "content": "1" * 60}], "solution": "1"},
    ]
    write_rows(tmp_path / "chat.jsonl", [*rows, {"messages": 5, "solution": "1"}])
    said = said_of(model, datasets=[{"name": str(tmp_path / "chat.jsonl")}], data={"on_bad_row": "skip"})
    assert "chat: 2 prompts in 3 rows, 1 left out (wrong_type)" in said
    assert "the first bad row: " in said and "chat.jsonl, line 3: column 'messages'" in said
    assert "The first prompt (4 tokens; of the first 2, 1 are longer than 48):\n    2+5=" in said
    assert "The answer: 'so \\\\boxed{7}'" in said
    assert "chat: 2 of 2 reference answers are right by their reward math" in said
    assert "20 draws over 2 prompts: 10.0 passes over the data." in said
    assert "plain text" not in said


def test_what_one_would_overlook_is_a_warning(model: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "plain.jsonl", [{"prompt": "2+5=", "gold": "7"}])
    write_rows(tmp_path / "held.jsonl", [{"prompt": "2+6=", "answer": "8"}])
    said = said_of(
        model,
        datasets=[{"name": str(tmp_path / "plain.jsonl")}],
        eval={"datasets": [{"name": str(tmp_path / "held.jsonl")}]},
    )
    assert "There is no answer." in said
    assert "Warning: plain: 0 of 1 reference answers are right" in said
    assert "(the row has no reference answer)" in said
    assert "Held-out problems:\nheld: 1 prompts in 1 rows" in said
    assert "plain, held are plain text and the model has a chat template" in said


def test_memory_is_estimated_from_the_configuration_of_the_model(model: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", [{"prompt": "2+5=", "answer": "7"}])
    weightless = tmp_path / "model"
    weightless.mkdir()
    for file in model.iterdir():
        if file.suffix != ".safetensors":
            (weightless / file.name).write_bytes(file.read_bytes())
    said = said_of(weightless, datasets=[{"name": str(tmp_path / "rows.jsonl")}], train={"micro_batch_tokens": 1024})
    assert "The model has 241,056 parameters in 2 layers." in said
    assert "optimizer 1.8 MiB, and up to" in said


def test_a_dataset_that_cannot_be_had_from_here_is_told(model: Path) -> None:
    said = said_of(model, datasets=[{"name": "no-one/has-this"}])
    assert "has-this is not looked at: 'no-one/has-this' is no local path" in said
    assert "20 draws; how many prompts there are is not known here." in said


@pytest.mark.parametrize(
    ("logging", "places"),
    [
        ({}, "metrics.jsonl and metrics.csv in the run directory; Ray's metrics (bolt_ray_*)."),
        ({"wandb": True, "tensorboard": True}, "; wandb (project bolt-ray); TensorBoard; Ray's metrics (bolt_ray_*)."),
        ({"wandb": "offline", "trackio": True, "ray_metrics": False}, "run directory; wandb, offline; trackio."),
    ],
)
def test_where_metrics_go_is_told(logging: dict[str, Any], places: str) -> None:
    config = build_config({"datasets": [{"name": "a.jsonl"}], "rewards": ["math"], "logging": logging})
    assert describe_logging(config).startswith("Metrics go to ") and describe_logging(config).endswith(places)


def test_a_sink_that_is_not_installed_is_refused() -> None:
    config = build_config({"datasets": [{"name": "a.jsonl"}], "rewards": ["math"], "logging": {"trackio": True}})
    check_logging(config, find=lambda name: name)
    with pytest.raises(EnvironmentProblem, match=r'logging.trackio: .*pip install "bolt-ray\[trackio\]"'):
        check_logging(config, find=lambda name: None)
