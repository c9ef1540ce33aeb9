"""The persistent baseline, the curriculum and adaptive KL inside TRL's ``GRPOTrainer``, without Ray.

    from bolt_ray.integrations.trl import BoltConfig, BoltGRPOTrainer

    trainer = BoltGRPOTrainer(model=..., reward_funcs=..., args=BoltConfig(...), train_dataset=...)
    trainer.train()

See ``bolt-ray docs trl``. Needs TRL: ``pip install 'bolt-ray[trl]'``.
"""

from __future__ import annotations

from bolt_ray.integrations.trl.version import require_trl

require_trl()

from bolt_ray.integrations.trl.baseline import UnifiedBaseline  # noqa: E402
from bolt_ray.integrations.trl.callbacks import BaselineUpdateCallback, CurriculumCallback  # noqa: E402
from bolt_ray.integrations.trl.config import BoltConfig, BoltConfigMixin  # noqa: E402
from bolt_ray.integrations.trl.convert import write_warm_start  # noqa: E402
from bolt_ray.integrations.trl.sampler import DynamicWeightedSampler  # noqa: E402
from bolt_ray.integrations.trl.trainer import BoltGRPOTrainer, BoltTrainerMixin  # noqa: E402

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
