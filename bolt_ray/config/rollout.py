"""Generation, the baseline and the curriculum."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from bolt_ray.config.base import Section

Share = Annotated[float, Field(ge=0, le=1)]


class SamplingConfig(Section):
    """``sampling:`` - how completions are sampled while training."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: all tokens")
    min_p: float = Field(0.0, ge=0, lt=1)
    max_new_tokens: PositiveInt = 512
    stop: list[str] = Field(default_factory=list)


class RolloutConfig(Section):
    """``rollout:`` - how much is generated for one optimizer step, and how old it may be."""

    rollouts_per_step: PositiveInt = Field(256, description="completions in one optimizer step")
    group_size: PositiveInt = Field(1, description="K, completions per prompt")
    max_staleness: int = Field(0, ge=0, description="0: strictly on-policy; n: train completions up to n versions old")
    dynamic_sampling: bool = Field(False, description="refill groups whose rewards are all equal (DAPO)")
    dynamic_sampling_rounds: PositiveInt = 3
    max_context_tokens: PositiveInt | None = Field(None, description="default: the model's own limit")


class BaselineConfig(Section):
    """``baseline:`` - the persistent estimate v̂ of every prompt (SPO, BOLT)."""

    num_shards: PositiveInt = 2
    forgetting: Literal["event", "kl", "constant"] = "event"
    kl_source: Literal["drift", "batch"] = "drift"
    rho_min: float = Field(0.875, gt=0, le=1)
    rho_max: float = Field(0.96, gt=0, le=1)
    d_half: PositiveFloat = 0.5
    prior: tuple[PositiveFloat, PositiveFloat] | Literal["mean"] = (1.0, 1.0)
    reward_range: tuple[float, float] = (0.0, 1.0)
    skip_truncated: bool = Field(False, description="truncated completions are no evidence for the baseline")
    warm_start: str | None = Field(None, description="a file written by 'bolt-ray precompute-baseline'")
    warm_start_allow_pickle: bool = Field(False, description="read the old .pkl form with a restricted reader")

    @model_validator(mode="after")
    def _ordered(self) -> BaselineConfig:
        if self.rho_min > self.rho_max:
            raise ValueError(f"rho_min {self.rho_min} is above rho_max {self.rho_max}")
        if not self.reward_range[0] < self.reward_range[1]:
            raise ValueError(f"reward_range {list(self.reward_range)} must be [low, high] with low < high")
        return self


class CurriculumConfig(Section):
    """``curriculum:`` - which prompts are worth training on."""

    strategy: Literal["uniform", "uncertainty", "thompson", "easy_first", "competence_based", "cures", "sec"] = (
        "uncertainty"
    )
    update_freq: PositiveInt = Field(10, description="steps between two refreshes of the weights")
    epsilon: float = Field(0.05, ge=0)
    gamma: float = Field(0.0, ge=0)
    target: Share = 0.5
    temperature: float = Field(1.0, ge=0.01)
    num_bins: PositiveInt = 5
    learning_rate: float = Field(0.5, ge=0, le=1, description="sec: step of the bandit's Q values")
    category: str | None = Field(None, description="sec: the metadata column that names a prompt's category")
    skip_solved: bool = False
    exploration_floor: Share = 0.0
    staleness_bonus: float = Field(0.0, ge=0)
    allocate_rollouts: bool = Field(False, description="K > 1: more completions for more uncertain prompts")

    @model_validator(mode="after")
    def _sec_needs_categories(self) -> CurriculumConfig:
        if self.strategy == "sec" and self.category is None:
            raise ValueError("strategy 'sec' needs curriculum.category, the metadata column of the categories")
        return self
