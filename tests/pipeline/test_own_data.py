"""Every file format, chat prompts and the starter templates, trained for a few real steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from rich.console import Console

from bolt_ray.config.loading import load_config
from bolt_ray.pipeline.run import train
from bolt_ray.pipeline.starter import write_starter
from bolt_ray.pipeline.telemetry import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run / "metrics.jsonl") if "reward/mean" in record]


def write_formats(directory: Path) -> list[str]:
    """The same kind of rows in each format; returns the paths."""
    tables = [
        pa.table({"prompt": [f"{k}*{n}=" for n in range(20)], "answer": [str(k * n) for n in range(20)]})
        for k in range(4)
    ]
    rows = [table.to_pylist() for table in tables]
    (directory / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[0]))
    (directory / "b.json").write_text(json.dumps({"prompts": rows[1]}))
    pyarrow.csv.write_csv(tables[2], directory / "c.csv")
    pyarrow.parquet.write_table(tables[3], directory / "d.parquet")
    return [str(directory / name) for name in ("a.jsonl", "b.json", "c.csv", "d.parquet")]


def test_all_formats_and_a_chat_dataset_in_one_run(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    datasets: list[dict[str, Any]] = [{"name": name, "weight": 1} for name in write_formats(tmp_path)]
    chats = [{"prompt": [{"role": "user", "content": f"9-{n}"}], "answer": str(9 - n)} for n in range(9)]
    (tmp_path / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    datasets.append({"name": str(tmp_path / "chat.jsonl"), "weight": 1})
    config = write_config(datasets=datasets, rollout={"rollouts_per_step": 20}, train={"max_steps": 2})
    train(load_config(config), base_dir=tmp_path)
    steps = steps_of(tmp_path / "run")
    assert len(steps) == 2 and steps[-1]["policy/logprob_gap"] <= 1e-3


@pytest.mark.parametrize("template", ["math", "code", "format", "own"])
def test_every_starter_trains_as_it_is(
    ray_cluster: None, long_model: Path, tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_starter(tmp_path / "start", template=template, console=Console(quiet=True))
    monkeypatch.chdir(tmp_path / "start")
    small = ["train.max_steps=2", "rollout.rollouts_per_step=16", "eval.num_problems=4", "generator.kv_cache_gib=0.1"]
    config = load_config("config.yaml", [*small, f"model.name_or_path={long_model}", f"run_dir={tmp_path / 'run'}"])
    outcome = train(config, base_dir=tmp_path / "start")
    assert outcome.steps == 2
    assert steps_of(tmp_path / "run")[-1]["reward/unscored_fraction"] <= 0.5
