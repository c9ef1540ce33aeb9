"""A training run whose reward does everything a reward must not do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bolt_ray.commands.inspect.inspect import read_baseline
from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import load_config
from bolt_ray.training.telemetry.record import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

DEEDS = ["raise", "_exit", "segfault", "nan", "inf", "string", "memory"]
REWARDS = '''
import ctypes, os, time

def score(item):
    """What the row's column ``deed`` says; 1 where it says nothing."""
    deed = item.metadata["deed"]
    if deed == "raise":
        raise ValueError("on [purpose]")
    if deed == "hang":
        while True:
            time.sleep(60)
    if deed == "_exit":
        os._exit(3)
    if deed == "segfault":
        ctypes.string_at(0)
    if deed == "memory":
        return float(len(bytearray(8 << 30)))
    return {"nan": float("nan"), "inf": float("inf"), "string": "1.0"}.get(deed, 1.0)

def too_few(items):
    """As many answers as there are rows with nothing to complain about."""
    return [1.0 for item in items if item.metadata["deed"] != "miscount"]
'''


def test_no_deed_of_a_reward_stops_training_or_becomes_a_zero(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(REWARDS)
    # One dataset for each reward. The reward with little time gets nothing but what hangs, so that on a busy machine
    # no harmless call is late.
    deeds = {"score": [*DEEDS, *["none"] * 20], "few": ["miscount", *["none"] * 7], "brief": ["hang"]}
    rows = []
    for reward, of_reward in deeds.items():
        of_dataset = [
            {"prompt": f"{n}=", "prompt_id": f"{deed}-{n}", "deed": deed} for n, deed in enumerate(of_reward, len(rows))
        ]
        (tmp_path / f"{reward}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in of_dataset))
        rows += of_dataset
    config = load_config(
        write_config(
            datasets=[{"name": str(tmp_path / f"{reward}.jsonl"), "reward": reward} for reward in deeds],
            data={"heldout_size": 0},
            rewards=[
                {"type": "own.py:score", "weight": 2.0},
                {"type": "own.py:too_few", "name": "few", "weight": 2.0, "batched": True},
                {"type": "own.py:score", "name": "brief", "timeout_s": 1.0},
            ],
            baseline={"reward_range": [0, 2]},
            curriculum={"strategy": "uniform", "update_freq": 1},
            scoring={"timeout_s": 120, "memory_mb": 1024, "num_scorers": 1, "cpus_per_scorer": 0.1},
            rollout={"rollouts_per_step": 36},  # every row once a step
            train={"max_steps": 2},
        )
    )
    outcome = train(config)

    assert outcome.steps == 2
    steps = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if "reward/mean" in record]
    counted: Counter[str] = Counter()
    for step in steps:
        assert step["reward/unscored_fraction"] == pytest.approx((len(DEEDS) + 2) / len(rows))
        assert step["reward/mean"] == 2.0
        counted.update({name: value for name, value in step.items() if name.startswith("reward/unscored/")})
    assert counted == {
        "reward/unscored/score/exception": 4,  # raise, memory
        "reward/unscored/brief/timeout": 2,
        "reward/unscored/score/crash": 4,  # _exit, segfault
        "reward/unscored/score/not_finite": 4,  # nan, inf
        "reward/unscored/score/wrong_type": 2,
        "reward/unscored/few/wrong_count": 2,
    }
    printed = capsys.readouterr().out
    assert "could not be scored and are left out: " in printed
    assert "on [purpose]" in printed or "MemoryError" in printed  # the first exception of the two

    # Only rows that were scored are known to the baseline, and none of them was ever less than right.
    view = read_baseline(tmp_path / "run" / "checkpoints" / "step-000002", config, None)
    assert sorted(view.keys.strings()) == sorted(str(row["prompt_id"]) for row in rows if row["deed"] == "none")
    assert np.all(view.v_hat > 0.5)
