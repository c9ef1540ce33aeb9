"""The policy: which model, in which precision, with or without an adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from bolt_ray.config.base import Section


class ArithmeticConfig(Section):
    """``arithmetic:`` - the embedded task: its problems, its model and how far the model is pretrained."""

    size: Literal["tiny", "small", "medium", "large"] = "tiny"
    tie_embeddings: bool = False
    num_experts: int = Field(0, ge=0, description="0: a dense model; otherwise a mixture of experts")
    active_experts: int = Field(0, ge=0, description="experts a token goes through; 0 when dense")
    context_length: PositiveInt = 512
    max_digits: PositiveInt = 1
    max_depth: PositiveInt = 2
    pretrain_steps: PositiveInt = Field(1500, description="steps with a careful teacher")
    hasty_steps: int = Field(150, ge=0, description="further steps with a teacher that often leaves out the scratchpad")
    hasty_fraction: float = Field(0.55, ge=0, le=1)
    pretrain_batch_size: PositiveInt = 64
    pretrain_learning_rate: PositiveFloat = 2e-3
    pretrain_seed: int = 0
    num_train: PositiveInt = 20_000
    num_heldout: PositiveInt = 1024
    data_seed: int = 0
    cache_dir: str = Field("~/.cache/bolt-ray/arithmetic", description="where models and problems are kept")
