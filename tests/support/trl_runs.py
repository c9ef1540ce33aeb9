"""Trainers of TRL on an untrained tiny model: seconds on a CPU, with rewards that are functions of the text."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

NUM_ROWS = 24


def rows(count: int = NUM_ROWS) -> list[dict[str, str]]:
    return [{"prompt": f"{i}+{i % 7}=", "answer": str(i + i % 7)} for i in range(count)]


def by_completion(completions: list[str], **_: Any) -> list[float]:
    """0 or 1, by a digest of the completion."""
    return [float(hashlib.blake2b(text.encode()).digest()[0] % 2) for text in completions]


def by_prompt(prompts: list[str], **_: Any) -> list[float]:
    """0 or 1, by a digest of the prompt: the same whatever is generated."""
    return [float(hashlib.blake2b(text.encode()).digest()[0] % 2) for text in prompts]


def settings(directory: Path, **changes: Any) -> dict[str, Any]:
    shared: dict[str, Any] = {
        "output_dir": str(directory),
        "per_device_train_batch_size": 8,
        "max_completion_length": 6,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
        "seed": 3,
    }
    return shared | changes


def trainer(
    model: Path, directory: Path, *, kind: Any = None, reward: Any = by_completion, data: Any = None, **changes: Any
) -> Any:
    """A trainer of class ``kind``, BoltGRPOTrainer by default; ``changes`` are settings of it."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from bolt_ray.integrations.trl import BoltConfig, BoltGRPOTrainer

    config = changes.pop("config", BoltConfig)
    more = {name: changes.pop(name) for name in ("callbacks", "eval_dataset") if name in changes}
    return (kind or BoltGRPOTrainer)(
        model=AutoModelForCausalLM.from_pretrained(model),
        reward_funcs=reward,
        args=config(**settings(directory, **changes)),
        train_dataset=Dataset.from_list(rows()) if data is None else data,
        processing_class=AutoTokenizer.from_pretrained(model),
        **more,
    )


class Poison(TrainerCallback):
    """Makes a gradient NaN at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self.step:
            next(model.parameters()).grad[0] = math.nan


class KilledError(Exception):
    """What ends a run that is killed."""


class Kill(TrainerCallback):
    """Ends the run in the middle of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KilledError


def evidence(store: Any) -> dict[str, dict[str, float]]:
    """What a store holds, by key."""
    snapshot = store.snapshot()
    names = sorted(snapshot.columns)
    return {
        key: {name: float(snapshot.columns[name][i]) for name in names} for i, key in enumerate(snapshot.keys.strings())
    }
