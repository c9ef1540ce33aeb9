"""The embedded model and problems through the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bolt_ray.cli import main
from bolt_ray.commands.pretrain.pretrain import DEFAULT_CONFIG
from bolt_ray.commands.shared.made_datasets import embedded_files
from bolt_ray.config.loading import build_config
from bolt_ray.core.errors import ConfigError

SHORT = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bolt-ray", *map(str, arguments)])
    with pytest.raises(SystemExit) as leave:
        main()
    return int(leave.value.code or 0)


def quick_config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(
        "datasets: [{name: arithmetic}]\nrewards: [{type: arithmetic}]\n"
        f"arithmetic: {{pretrain_steps: 3, hasty_steps: 2, cache_dir: {tmp_path / 'cache'}, num_train: 40, "
        "num_heldout: 8}\n"
    )
    return path


@pytest.mark.slow
def test_pretrain_writes_a_model_and_refuses_to_overwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "model"
    assert run(monkeypatch, "pretrain", quick_config(tmp_path), "--output", output) == 0
    assert (output / "model.safetensors").is_file() and (output / "tokenizer.json").is_file()
    assert run(monkeypatch, "pretrain", quick_config(tmp_path), "--output", output) == 2


def test_problem_files_share_no_prompt(tmp_path: Path) -> None:
    tree = DEFAULT_CONFIG | {
        "arithmetic": {"num_train": 300, "num_heldout": 50, "cache_dir": str(tmp_path)},
    }
    train, heldout = embedded_files(build_config(tree).arithmetic)
    prompts = [{line.split('"prompt": ')[1] for line in path.read_text().splitlines()} for path in (train, heldout)]
    assert [len(found) for found in prompts] == [300, 50]
    assert not prompts[0] & prompts[1]


def test_impossible_settings_name_the_section() -> None:
    with pytest.raises(ConfigError, match=r"arithmetic\.num_experts: 4 and active_experts 9"):
        build_config(DEFAULT_CONFIG | {"arithmetic": {"num_experts": 4, "active_experts": 9}})


def rows_config(tmp_path: Path, **settings: Any) -> Path:
    tree: dict[str, Any] = {
        "model": {"name_or_path": str(tmp_path / "taught")},
        "datasets": [{"name": "reasoning_gym/chain_sum", "size": 200, "options": SHORT}],
        "data": {"store_dir": str(tmp_path / "stores")},
        "eval": {"datasets": [{"name": "reasoning_gym/chain_sum", "size": 20, "seed": 1, "options": SHORT}]},
        "rewards": ["reasoning_gym"],
        "pretrain": {"steps": 20, "batch_size": 16, "warmup_steps": 5},
    }
    path = tmp_path / "rows.yaml"
    path.write_text(yaml.safe_dump(tree | settings))
    return path


def test_a_model_is_taught_from_the_rows_of_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "pretrain", rows_config(tmp_path), "--steps", 30) == 0
    report = json.loads((tmp_path / "taught" / "pretrain_report.json").read_text())["report"]
    assert (report["steps"], report["heldout_rows"]) == (30, 20)
    assert report["last_loss"] < 0.6 * report["first_loss"]
    assert "Made 200 problems of chain_sum" in capsys.readouterr().out
    assert run(monkeypatch, "pretrain", rows_config(tmp_path)) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_model_is_taught_from_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"{n}+1=", "solution": str(n + 1)}) + "\n" for n in range(200)))
    output = tmp_path / "model"
    assert run(monkeypatch, "pretrain", "--data", rows, "--steps", 3, "--output", output) == 0
    assert (output / "model.safetensors").is_file() and (output / "tokenizer.json").is_file()
    assert run(monkeypatch, "pretrain", "--data", rows, "--output", output) == 2
    assert "there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"eval": {}},
            "no held-out rows to measure the model on: name some in eval.datasets, or set data.heldout_size",
        ),
        ({"model": {"name_or_path": "owner/model"}}, "a name of the Hugging Face hub; say with --output where"),
        ({"datasets": [{"name": "chat.jsonl"}]}, "chat.jsonl, line 1: a tiny model has no chat template"),
        ({"datasets": [{"name": "bare.jsonl"}]}, "bare.jsonl, line 1: the row has no answer to teach"),
        ({"datasets": [{"name": "reasoning_gym/chain_sum"}]}, "datasets.0.size: is needed"),
        ({"datasets": [{"name": "bare.jsonl", "size": 3}]}, "datasets.0.size: is of data that are made"),
        ({"model": {}}, "steps: of a model taught from rows; the embedded one has settings of its own"),
    ],
)
def test_what_cannot_be_taught_is_told(
    change: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat.jsonl").write_text('{"messages": [{"role": "user", "content": "1+1="}], "answer": "2"}\n')
    (tmp_path / "bare.jsonl").write_text('{"prompt": "1+1="}\n')
    assert run(monkeypatch, "pretrain", rows_config(tmp_path, **change), "--steps", 3) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "taught").exists()
