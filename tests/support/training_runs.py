"""Small runs of ``bolt-ray train``: 16 completions a step by an untrained model."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bolt_ray import TrainingOutcome, train
from bolt_ray.config.schema import RunConfig
from bolt_ray.training.telemetry.record import read_metrics


def write_run_config(directory: Path, *, model_path: Path, name: str = "config.yaml", **settings: Any) -> Path:
    """A config file in ``directory`` with the settings given laid over a small run.

    The reward is 1 for a completion with a digit below five, which an untrained model sometimes writes.
    """
    prompts = directory / "prompts.jsonl"
    if not prompts.exists():
        rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(8) for b in range(8)]
        prompts.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tree: dict[str, Any] = {
        "run_dir": str(directory / "run"),
        "model": {"name_or_path": str(model_path), "dtype": "float32"},
        "datasets": [{"name": str(prompts)}],
        "data": {"store_dir": str(directory / "store"), "heldout_size": 8},
        "rewards": [{"type": "regex", "pattern": "[0-4]"}],
        "sampling": {"max_new_tokens": 8},
        "rollout": {"rollouts_per_step": 16},
        "curriculum": {"update_freq": 2},
        "train": {"max_steps": 3, "learning_rate": 1e-2},
        "scoring": {"num_scorers": 1, "cpus_per_scorer": 0.1},
        "generator": {"kv_cache_gib": 0.05, "max_num_seqs": 32},
        "eval": {"every_steps": 2},
        "checkpoint": {"every_steps": 0},
        "baseline": {"num_shards": 1},
    }
    for section, values in settings.items():
        tree[section] = tree.get(section, {}) | values if isinstance(values, dict) else values
    path = directory / name
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """A run that several tests look at and none changes.

    Attributes:
        config_path: its config file.
        root: its run directory.
    """

    config: RunConfig
    config_path: Path
    root: Path
    outcome: TrainingOutcome

    @property
    def steps(self) -> list[dict[str, Any]]:
        return steps_of(self.root)


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The metrics of the training steps, without those of evaluations."""
    return [record for record in read_metrics(run / "metrics.jsonl") if "reward/mean" in record]


def wait_for_step(run: Path, step: int, *, alive: Callable[[], bool]) -> None:
    """Until a run in another thread or process has finished ``step``."""
    deadline = time.monotonic() + 300
    while not any(record["step"] >= step for record in read_metrics(run / "metrics.jsonl")):
        assert alive(), f"the run ended before step {step}"
        assert time.monotonic() < deadline, f"no step {step} within 300 s"
        time.sleep(0.2)


def train_until_sigterm(config: RunConfig, run: Path, *, step: int) -> TrainingOutcome:
    """Train in this process, which gets SIGTERM once ``step`` is done."""
    going_on = threading.Event()
    going_on.set()

    def stop() -> None:
        try:
            wait_for_step(run, step, alive=going_on.is_set)
        finally:
            if going_on.is_set():  # a late signal would end the tests
                os.kill(os.getpid(), signal.SIGTERM)

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        return train(config)
    finally:
        going_on.clear()
        stopper.join()


def check_preset(run: Path, config: RunConfig, *, steps_done: int | None = None) -> None:
    """What every run of every preset shows: it trained, and its tracker learned."""
    steps = steps_of(run)
    assert len(steps) == (steps_done or config.train.max_steps)
    assert steps[-1]["baseline/num_prompts"] >= 16 / config.rollout.group_size
    assert steps[-1]["policy/sync_gap"] <= 1e-3
    assert all(1e-4 < record["policy/drift"] < 1.0 for record in steps)
    # Groups reach the advantages whole: a completion alone in its group would fall back to the tracker.
    if config.advantage.baseline == "group":
        groups = config.rollout.rollouts_per_step / config.rollout.group_size
        assert all(record["advantage/singletons"] == 0 for record in steps)
        assert all(0 <= record["advantage/zero_variance_groups"] <= groups for record in steps)
    # ``forgetting: kl`` follows that drift, which the weight sync's probes measured.
    assert (steps[-1]["baseline/avg_kl_ema"] > 1e-4) or config.baseline.forgetting != "kl"


def check_adapters(run: Path, *, whole: Path) -> None:
    """A run that trained an adapter sent nothing else, and keeps it as its final model."""
    # Not 0: the generator did answer, and was not replaced.
    assert all(0.0 < record["policy/sync_gap"] <= 1e-3 for record in steps_of(run))
    assert "generator is replaced" not in (run / "run.log").read_text(encoding="utf-8")
    newest = max((run / "adapters").iterdir())
    assert {path.suffix for path in newest.iterdir()} >= {".safetensors", ".json"}
    sent = (newest / "adapter_model.safetensors").stat().st_size
    assert sent < (whole / "model.safetensors").stat().st_size / 3
    assert (run / "final" / "adapter_config.json").is_file()


def check_printed_agreement(printed: str, *, sent: str) -> None:
    """What ``bolt-ray doctor`` says of a generator and a learner that agree."""
    words = " ".join(printed.split())
    assert "All good." in words
    assert f"after a sync of {sent}" in words
    # The step must move the log-probs far more than rounding, or the second comparison proves nothing.
    assert float(words.split("moved the log-probs by up to ")[1].split(";")[0]) > 0.05
