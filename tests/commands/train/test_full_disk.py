"""A real run on two learner ranks whose disk has no room for a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.disks import small_disk

from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import load_config
from bolt_ray.core.errors import StorageError
from bolt_ray.training.telemetry.record import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]


def test_ranks_go_on_after_a_checkpoint_that_found_no_room(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    path = write_config(
        train={"max_steps": 2},
        cluster={"num_learners": 2},
        checkpoint={"every_steps": 1},
        eval={"at_start": False, "at_end": False, "every_steps": 0},
    )
    run = tmp_path / "run"
    run.mkdir()
    with small_disk(run / "checkpoints", kilobytes=64):
        with pytest.raises(StorageError, match=r"learner's files .*\(rank .*No space left on device"):
            train(load_config(path))
        assert list((run / "checkpoints").iterdir()) == []
    steps = [record["step"] for record in read_metrics(run / "metrics.jsonl") if "reward/mean" in record]
    assert steps == [1, 2]
    assert "Warning: step 1 IS NOT SAVED, training goes on" in (run / "run.log").read_text()
