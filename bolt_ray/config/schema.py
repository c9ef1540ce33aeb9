"""The whole configuration of a run, and the combinations of settings that cannot be."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bolt_ray.config.base import Section
from bolt_ray.config.cluster import (
    CheckpointConfig,
    ClusterConfig,
    DeadlineConfig,
    EvalConfig,
    GeneratorConfig,
    ScoringSection,
)
from bolt_ray.config.data import DataConfig, DatasetConfig
from bolt_ray.config.model import ArithmeticConfig, ModelConfig
from bolt_ray.config.optim import (
    AdvantageConfig,
    CorrectionConfig,
    KLConfig,
    LossConfig,
    ReferenceConfig,
    TrainConfig,
)
from bolt_ray.config.rewards import Reward, check_reward_references, reward_names
from bolt_ray.config.rollout import BaselineConfig, CurriculumConfig, RolloutConfig, SamplingConfig
from bolt_ray.core.losses import LossOptions, default_clip_range


class RunConfig(Section):
    """Everything ``bolt-ray train`` reads. Defaults live on these fields alone."""

    algo: Literal["bolt", "baseline", "curriculum", "grpo", "spo", "spo++"] = "bolt"
    name: str = Field("run", description="run directories are runs/<name>-<time> unless run_dir is given")
    run_dir: str | None = None
    resume: str | None = Field(None, description="'auto', or the directory of the run to go on with")
    seed: int = Field(0, ge=0)

    model: ModelConfig = ModelConfig()
    arithmetic: ArithmeticConfig = ArithmeticConfig()
    datasets: list[DatasetConfig] = Field(min_length=1)
    data: DataConfig = DataConfig()
    rewards: list[Reward] = Field(min_length=1)
    scoring: ScoringSection = ScoringSection()
    sampling: SamplingConfig = SamplingConfig()
    rollout: RolloutConfig = RolloutConfig()
    baseline: BaselineConfig = BaselineConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    advantage: AdvantageConfig = AdvantageConfig()
    loss: LossConfig = LossConfig()
    correction: CorrectionConfig = CorrectionConfig()
    kl: KLConfig = KLConfig()
    reference: ReferenceConfig = ReferenceConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    cluster: ClusterConfig = ClusterConfig()
    generator: GeneratorConfig = GeneratorConfig()
    deadlines: DeadlineConfig = DeadlineConfig()

    @property
    def prompts_per_step(self) -> int:
        return self.rollout.rollouts_per_step // self.rollout.group_size

    def loss_options(self) -> LossOptions:
        """The loss as the learner takes it, with the type's own clip range where none is given."""
        loss = self.loss
        low, high = default_clip_range(loss.type)
        return LossOptions(
            type=loss.type,
            aggregation=loss.aggregation,
            clip_low=low if loss.clip_low is None else loss.clip_low,
            clip_high=high if loss.clip_high is None else loss.clip_high,
            max_completion_tokens=self.sampling.max_new_tokens,
            cispo_max=loss.cispo_max,
            delta=loss.delta,
            dual_clip=loss.dual_clip,
            sapo_temperature_pos=loss.sapo_tau_positive,
            sapo_temperature_neg=loss.sapo_tau_negative,
            entropy_coef=loss.entropy_coef,
        )

    @model_validator(mode="after")
    def _loss_is_possible(self) -> RunConfig:
        self.loss_options()
        return self

    @model_validator(mode="after")
    def _reward_names(self) -> RunConfig:
        names = reward_names(self.rewards)
        for place, datasets in (("datasets", self.datasets), ("eval.datasets", self.eval.datasets)):
            wanted = [dataset.reward for dataset in datasets if dataset.reward is not None]
            check_reward_references(names, wanted, place=place)
        return self

    @model_validator(mode="after")
    def _groups(self) -> RunConfig:
        rollouts, k = self.rollout.rollouts_per_step, self.rollout.group_size
        if rollouts % k:
            raise ValueError(
                f"rollout.rollouts_per_step {rollouts} is not a multiple of rollout.group_size {k}; "
                f"use {rollouts // k * k or k} or {(rollouts // k + 1) * k}"
            )
        if self.curriculum.allocate_rollouts and k < 2:
            raise ValueError("curriculum.allocate_rollouts divides a group: it needs rollout.group_size of 2 or more")
        if self.advantage.baseline == "loo_posterior" and k < 2:
            raise ValueError("advantage.baseline 'loo_posterior' needs rollout.group_size of 2 or more")
        if self.advantage.normalize == "group" and k < 2:
            raise ValueError(
                "advantage.normalize 'group' needs rollout.group_size of 2 or more; with 1 use 'token' or 'batch'"
            )
        if self.rollout.dynamic_sampling and self.advantage.baseline not in ("group", "rloo"):
            raise ValueError("rollout.dynamic_sampling refills groups: it needs advantage.baseline 'group' or 'rloo'")
        return self

    @model_validator(mode="after")
    def _learner(self) -> RunConfig:
        rollouts, ranks = self.rollout.rollouts_per_step, self.cluster.num_learners
        if rollouts < ranks:
            raise ValueError(
                f"rollout.rollouts_per_step {rollouts} gives some of the {ranks} learner ranks nothing to train"
            )
        size = self.train.minibatch_size
        if size is not None and not ranks <= size <= rollouts:
            raise ValueError(
                f"train.minibatch_size {size} must lie between cluster.num_learners {ranks} and "
                f"rollout.rollouts_per_step {rollouts}"
            )
        if self.sampling.temperature == 0:
            raise ValueError("sampling.temperature 0 explores nothing; training needs a temperature above 0")
        return self
