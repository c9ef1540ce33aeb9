"""The shipped quickstart learns: one completion per prompt, the tracker as baseline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import load_config
from bolt_ray.training.telemetry.record import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

ROOT = Path(__file__).parents[3]


def test_the_beginning_of_the_quickstart_gains_ten_points(ray_cluster: None, tmp_path: Path) -> None:
    config = load_config(
        ROOT / "configs" / "quickstart.yaml",
        [f"run_dir={tmp_path / 'run'}", "train.max_steps=26", "eval.every_steps=0", "checkpoint.every_steps=0"],
    )
    assert (config.rollout.group_size, config.advantage.baseline) == (1, "tracker")
    outcome = train(config)
    assert outcome.initial_score is not None and outcome.final is not None
    # Two standard errors of a difference of two such shares are six points; it gains about 17.
    assert outcome.final.value - outcome.initial_score.value > 0.1, (outcome.initial_score, outcome.final)
    steps = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward/mean" in record]
    assert len(steps) == 26
    assert all(record["policy/logprob_gap_max"] < 1e-3 for record in steps)
    first, last = (np.mean([record["reward/mean"] for record in part]) for part in (steps[:6], steps[-6:]))
    assert last > first + 0.1
