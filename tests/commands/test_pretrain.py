"""The embedded model and problems through the command line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bolt_ray.cli import main
from bolt_ray.commands.pretrain.pretrain import DEFAULT_CONFIG
from bolt_ray.commands.shared.made_datasets import embedded_files
from bolt_ray.config.loading import build_config
from bolt_ray.core.errors import ConfigError


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
