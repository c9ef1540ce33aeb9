"""Reinforcement learning for language models on Ray, with a persistent baseline per prompt and a curriculum.

    from bolt_ray import RunConfig, train

    def score(item):
        return float(item.completion.strip() == item.answer)

    outcome = train(RunConfig(datasets=[{"name": "problems.jsonl"}], rewards=[score], train={"max_steps": 20}))

Names are imported when they are first used, so that ``import bolt_ray`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bolt_ray.commands.evaluate.evaluate import evaluate
    from bolt_ray.commands.train.train import TrainingOutcome, train
    from bolt_ray.config.loading import load_config
    from bolt_ray.config.schema import RunConfig
    from bolt_ray.core.errors import BoltRayError, RunError, UserError
    from bolt_ray.rewards.protocol import RewardInput, Unscored

_HOMES = {
    "BoltRayError": "bolt_ray.core.errors",
    "RewardInput": "bolt_ray.rewards.protocol",
    "RunConfig": "bolt_ray.config.schema",
    "RunError": "bolt_ray.core.errors",
    "TrainingOutcome": "bolt_ray.commands.train.train",
    "Unscored": "bolt_ray.rewards.protocol",
    "UserError": "bolt_ray.core.errors",
    "evaluate": "bolt_ray.commands.evaluate.evaluate",
    "load_config": "bolt_ray.config.loading",
    "train": "bolt_ray.commands.train.train",
}

__all__ = [
    "BoltRayError",
    "RewardInput",
    "RunConfig",
    "RunError",
    "TrainingOutcome",
    "Unscored",
    "UserError",
    "evaluate",
    "load_config",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
