"""The persistent baseline, the curriculum and adaptive KL inside TRL's ``GRPOTrainer``, without Ray.

    from bolt_ray.integrations.trl import BoltConfig, BoltGRPOTrainer

    trainer = BoltGRPOTrainer(model=..., reward_funcs=..., args=BoltConfig(...), train_dataset=...)
    trainer.train()

See ``bolt-ray docs trl``. Needs TRL: ``pip install 'bolt-ray[trl]'``. Names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bolt_ray.integrations.trl.version import require_trl

if TYPE_CHECKING:
    from bolt_ray.integrations.trl.baseline import UnifiedBaseline
    from bolt_ray.integrations.trl.callbacks import BaselineUpdateCallback, CurriculumCallback
    from bolt_ray.integrations.trl.config import BoltConfig, BoltConfigMixin
    from bolt_ray.integrations.trl.convert import write_warm_start
    from bolt_ray.integrations.trl.sampler import DynamicWeightedSampler
    from bolt_ray.integrations.trl.trainer import BoltGRPOTrainer, BoltTrainerMixin

_HOMES = {
    "BaselineUpdateCallback": "callbacks",
    "BoltConfig": "config",
    "BoltConfigMixin": "config",
    "BoltGRPOTrainer": "trainer",
    "BoltTrainerMixin": "trainer",
    "CurriculumCallback": "callbacks",
    "DynamicWeightedSampler": "sampler",
    "UnifiedBaseline": "baseline",
    "write_warm_start": "convert",
}

__all__ = [
    "BaselineUpdateCallback",
    "BoltConfig",
    "BoltConfigMixin",
    "BoltGRPOTrainer",
    "BoltTrainerMixin",
    "CurriculumCallback",
    "DynamicWeightedSampler",
    "UnifiedBaseline",
    "write_warm_start",
]

require_trl()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
