"""What the end-to-end tests share: an untrained model, prompts, and a config that trains in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.models import make_model


@pytest.fixture(scope="session")
def tied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tied", tie_embeddings=True)


@pytest.fixture(scope="session")
def untied_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "untied", tie_embeddings=False)


@pytest.fixture(scope="session")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose context holds the prompts of the starter templates."""
    return make_model(tmp_path_factory.mktemp("model") / "long", tie_embeddings=True, context_length=512)


@pytest.fixture
def write_config(tmp_path: Path, tied_model: Path) -> Callable[..., Path]:
    """A config file in ``tmp_path`` with the settings given laid over a small run of 16 completions a step.

    The reward is 1 for a completion with a digit, which an untrained model sometimes writes.
    """

    def write(name: str = "config.yaml", **settings: Any) -> Path:
        prompts = tmp_path / "prompts.jsonl"
        if not prompts.exists():
            rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(8) for b in range(8)]
            prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tree: dict[str, Any] = {
            "run_dir": str(tmp_path / "run"),
            "model": {"name_or_path": str(tied_model), "dtype": "float32"},
            "datasets": [{"name": str(prompts)}],
            "data": {"store_dir": str(tmp_path / "store"), "heldout_size": 8},
            "rewards": [{"type": "regex", "pattern": "[0-4]"}],
            "sampling": {"max_new_tokens": 8},
            "rollout": {"rollouts_per_step": 16},
            "curriculum": {"update_freq": 2},
            "train": {"max_steps": 3, "learning_rate": 1e-2},
            "scoring": {"num_scorers": 1, "cpus_per_scorer": 0.1},
            "generator": {"kv_cache_gib": 0.05, "max_num_seqs": 32},
            "eval": {"every_steps": 2},
            "checkpoint": {"every_steps": 0},
        }
        for section, values in settings.items():
            tree[section] = tree.get(section, {}) | values if isinstance(values, dict) else values
        path = tmp_path / name
        path.write_text(yaml.safe_dump(tree), encoding="utf-8")
        return path

    return write
