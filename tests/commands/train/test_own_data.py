"""A script that trains for a few steps: every file format, chat prompts, staleness, an own reward, SIGTERM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets as hf
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import yaml
from support.training_runs import check_preset, steps_of, train_until_sigterm

from bolt_ray import RewardInput, RunConfig
from bolt_ray.commands.shared.prompts import open_store
from bolt_ray.data.stream.draw_log import DrawLog

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


def write_datasets(directory: Path) -> list[dict[str, Any]]:
    """Entries of ``datasets:``, one for every way a dataset may come, each with prompts of its own."""
    tables = [
        pa.table({"prompt": [f"{k}*{n}=" for n in range(20)], "answer": [str(k * n) for n in range(20)]})
        for k in range(8)
    ]
    rows = [table.to_pylist() for table in tables]
    (directory / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[0]))
    (directory / "b.json").write_text(json.dumps({"prompts": rows[1]}))
    (directory / "c.json").write_text(json.dumps(rows[2]))
    pyarrow.csv.write_csv(tables[3], directory / "d.csv")
    (directory / "folder").mkdir()
    pyarrow.parquet.write_table(tables[4], directory / "folder" / "train-0.parquet")
    with pa.OSFile(str(directory / "f.arrow"), "wb") as file, pa.ipc.new_file(file, tables[5].schema) as writer:
        writer.write_table(tables[5])
    (directory / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[6]))
    hf.Dataset.from_list(rows[7]).save_to_disk(directory / "saved")
    solutions = [{"question": f"9+{n}=", "answer": f"counting on\n#### {9 + n}"} for n in range(9)]
    (directory / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in solutions))
    chats = [{"prompt": [{"role": "user", "content": f"9-{n}"}], "answer": str(9 - n)} for n in range(9)]
    (directory / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chats))
    names = ("a.jsonl", "b.json", "c.json", "d.csv", "folder", "f.arrow", "saved", "chat.jsonl")
    entries: list[dict[str, Any]] = [{"name": str(directory / name)} for name in names]
    entries.append({"name": "json", "data_files": str(directory / "g.jsonl")})  # a Hugging Face name
    preset = {"preset": "gsm8k", "prompt_template": "{question}"}
    entries.append({"name": str(directory / "gsm8k.jsonl"), **preset})
    return [entry | {"weight": 3 if number == 0 else 1} for number, entry in enumerate(entries)]


def test_a_script_trains_on_every_kind_of_dataset_until_sigterm(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    """Eight completions a prompt, which are no draws; one version of staleness; a function as the reward."""
    wanted = "1"

    def has_digit(item: RewardInput) -> float:
        return float(wanted in item.completion)

    tree = yaml.safe_load(
        write_config(
            algo="grpo",
            datasets=write_datasets(tmp_path),
            rollout={"rollouts_per_step": 36 * 8, "max_staleness": 1},
            train={"max_steps": 10_000, "learning_rate": 1e-3},
        ).read_text()
    )
    config = RunConfig(**tree | {"rewards": [has_digit]})
    run = tmp_path / "run"
    outcome = train_until_sigterm(config, run, step=6)

    assert (outcome.interrupted, outcome.run_directory, outcome.model) == (True, run, None)
    assert outcome.steps >= 6
    (checkpoint,) = (run / "checkpoints").iterdir()
    assert json.loads((checkpoint / "state.json").read_text())["step"] == outcome.steps
    assert (checkpoint / "model" / "config.json").is_file()

    check_preset(run, config, steps_done=outcome.steps)
    steps = steps_of(run)
    assert "reward/part/has_digit" in steps[0]
    assert all(record["policy/sync_gap"] <= 1e-3 for record in steps)
    ages = [record["policy/staleness_max"] for record in steps]
    assert ages[0] == 0 and set(ages) == {0, 1}, ages
    store = open_store(config.datasets, config)
    drawn = DrawLog(run / "draws", store_address=store.address).read(0).rows
    assert np.bincount(store.source_ids()[drawn]).tolist() == [18, *[6] * 9]  # of 72: three to one
