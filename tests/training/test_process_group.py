"""The ranks' process group under the real Ray Train."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.train import RunConfig, ScalingConfig

from bolt_ray.training.lean_trainer import LeanTrainer
from bolt_ray.training.process_group import ProcessGroupConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def rank_function() -> Callable[[dict[str, Any]], None]:
    """Made inside a function, so that it travels to Ray's workers by value."""

    def rank(config: dict[str, Any]) -> None:
        import os

        import torch.distributed as dist

        said = {"size": dist.get_world_size(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
        Path(config["file"]).write_text(json.dumps(said))

    return rank


def test_a_rank_without_a_gpu_joins_and_sees_none(tmp_path: Path) -> None:
    """Ray Train says gloo and leaves a machine's GPUs visible: the model would go to one of them."""
    LeanTrainer(
        rank_function(),
        train_loop_config={"file": str(tmp_path / "said")},
        scaling_config=ScalingConfig(num_workers=1, use_gpu=False, resources_per_worker={"CPU": 1}),
        backend_config=ProcessGroupConfig(backend="gloo", timeout_s=60),
        run_config=RunConfig(name="rank", storage_path=str(tmp_path / "train")),
    ).fit()
    assert json.loads((tmp_path / "said").read_text()) == {"size": 1, "gpus": ""}
