"""Optimization: advantages, loss, KL, corrections, the learner."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from bolt_ray.config.base import Section
from bolt_ray.core.kl import KLOptions, check_kl_options
from bolt_ray.core.kl_controllers import make_kl_controller

KLAdaptation = Literal["clip", "sigmoid", "hinge", "softplus", "length_normalized"]


class AdvantageConfig(Section):
    """``advantage:`` - how a reward becomes an advantage."""

    baseline: Literal["tracker", "group", "rloo", "loo_posterior"] = "tracker"
    normalize: Literal["token", "batch", "group", "none"] = "token"
    clip: PositiveFloat | None = None


class LossConfig(Section):
    """``loss:`` - the policy loss and its options."""

    type: Literal["grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo", "sapo", "reinforce"] = "dapo"
    aggregation: Literal["sequence_mean", "token_mean", "local_token_mean", "fixed_length"] | None = Field(
        None, description="how tokens are added up; default: the loss type's own"
    )
    clip_low: PositiveFloat | None = Field(None, description="default: the loss type's own")
    clip_high: PositiveFloat | None = Field(None, description="default: the loss type's own")
    cispo_max: PositiveFloat = 5.0
    sapo_tau_positive: PositiveFloat = 1.0
    sapo_tau_negative: PositiveFloat = 1.05
    delta: PositiveFloat | None = Field(None, description="two-sided clip of the unclipped branch")
    dual_clip: PositiveFloat | None = None
    mask_truncated: bool = False
    entropy_coef: NonNegativeFloat = 0.0
    top_entropy_fraction: PositiveFloat = Field(1.0, le=1, description="train only this share of tokens")


class CorrectionConfig(Section):
    """``correction:`` - importance weights for what another policy generated."""

    level: Literal["token", "sequence"] = "token"
    mode: Literal["truncate", "mask", "none"] = "truncate"
    cap: PositiveFloat = 2.0


class KLConfig(Section):
    """``kl:`` - the pull towards the reference model."""

    coef: NonNegativeFloat = 0.0
    estimator: Literal["k1", "k2", "k3", "abs"] = "k3"
    unbiased: bool = Field(True, description="of placement: loss")
    placement: Literal["loss", "reward"] = Field("loss", description="reward: r - coef * (sum of KL over the tokens)")
    unit: Literal["token", "sequence"] = Field("token", description="of placement: loss")
    adaptation: tuple[KLAdaptation, ...] = Field((), description="one shape, with or without length_normalized")
    clip_threshold: PositiveFloat = 1.0
    target: PositiveFloat = Field(0.1, description="of the sigmoid shape")
    temperature: PositiveFloat = 1.0
    threshold: NonNegativeFloat = Field(0.1, description="of hinge and softplus")
    controller: Literal["dynamic", "ziegler", "ppo_penalty"] | None = None
    controller_target: PositiveFloat = Field(0.1, description="KL that ziegler and ppo_penalty steer to")
    window: PositiveInt = 10
    reward_threshold: float = 0.8
    dynamic_beta_decay: float = Field(0.9, gt=0, le=1)
    beta_min: NonNegativeFloat = 0.0
    beta_schedule_steps: PositiveInt = 1000
    horizon: PositiveFloat = 10_000

    @field_validator("adaptation", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        if value in (None, "none"):
            return ()
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _legal(self) -> KLConfig:
        check_kl_options(self.options(), coef=self.coef, controller=self.controller)
        make_kl_controller(self.controller, self.coef, **self.controller_parameters())
        return self

    def options(self) -> KLOptions:
        """The estimator and shape as the loss takes them."""
        return KLOptions(
            estimator=self.estimator,
            unbiased=self.unbiased,
            placement=self.placement,
            adaptation=self.adaptation,
            unit=self.unit,
            clip_threshold=self.clip_threshold,
            target=self.target,
            temperature=self.temperature,
            threshold=self.threshold,
        )

    def controller_parameters(self) -> dict[str, float]:
        """What the chosen controller takes."""
        if self.controller == "dynamic":
            return {
                "window": self.window,
                "reward_threshold": self.reward_threshold,
                "decay": self.dynamic_beta_decay,
                "beta_min": self.beta_min,
                "schedule_steps": self.beta_schedule_steps,
            }
        if self.controller == "ziegler":
            return {"target": self.controller_target, "horizon": self.horizon}
        return {"target": self.controller_target} if self.controller else {}


class ReferenceConfig(Section):
    """``reference:`` - the model the KL term pulls towards; loaded only if it is needed."""

    mode: Literal["static", "ema", "periodic"] = "static"
    ema_alpha: float = Field(0.99, ge=0, le=1, description="the kept fraction")
    update_freq: PositiveInt = 500
    device: Literal["auto", "cpu"] = "auto"


class TrainConfig(Section):
    """``train:`` - the optimizer and how a step is cut into micro-batches."""

    max_steps: PositiveInt = 200
    learning_rate: PositiveFloat = 1e-5
    lr_schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: NonNegativeInt = 0
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    micro_batch_tokens: PositiveInt = Field(16_384, description="tokens one rank holds in a forward pass")
    ppo_epochs: PositiveInt = 1
    minibatch_size: PositiveInt | None = Field(None, description="sequences per optimizer step; default: all")
    recompute_old_logprobs: bool | None = Field(
        None, description="π_old from the learner, not the generator; default: with several optimizer steps a batch"
    )
    packing: bool = Field(True, description="lay several sequences into a row; off by itself where a model mixes them")
    max_bad_steps: PositiveInt = Field(5, description="stop after so many non-finite steps in a row")

    @model_validator(mode="after")
    def _offload(self) -> TrainConfig:
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError(f"offload_parameters needs zero_stage 3, not {self.zero_stage}")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3, not 0")
        return self
