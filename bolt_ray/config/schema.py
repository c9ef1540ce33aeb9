"""The whole configuration of a run: the settings of its components composed, and what they must agree on."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, model_validator

from bolt_ray.actors.settings import ClusterSettings, ScoringSettings, ShardedBaselineSettings
from bolt_ray.config.legacy import translate
from bolt_ray.config.presets import PRESETS, lay_under
from bolt_ray.config.rewards import Reward, plain_reward
from bolt_ray.core.advantages import AdvantageOptions
from bolt_ray.core.correction_options import CorrectionOptions
from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.kl_options import KLSettings
from bolt_ray.core.losses.options import LossOptions
from bolt_ray.core.settings import nearest_hint
from bolt_ray.data.settings import DatasetSettings, DataSettings
from bolt_ray.engines.learner.settings import LearnerSettings, ReferenceSettings, TrainSettings
from bolt_ray.engines.settings import ModelSettings, SamplingSettings
from bolt_ray.engines.vllm.settings import GeneratorSettings
from bolt_ray.rewards.settings import RewardSettings, check_reward_references, reward_names
from bolt_ray.tasks.arithmetic.settings import ArithmeticSettings
from bolt_ray.tasks.tiny.settings import RowPretrainSettings
from bolt_ray.training.settings import (
    CheckpointSettings,
    DeadlineSettings,
    EvalSettings,
    ProfileSettings,
    RolloutSettings,
    SamplesSettings,
)
from bolt_ray.training.telemetry.sinks.settings import LoggingSettings

Algorithm = Literal["bolt", "baseline", "curriculum", "grpo", "dapo", "reinforce", "spo", "spo++"]


class RunConfig(BaseModel):
    """Everything ``bolt-ray train`` reads, one section per component; see docs/configuration.md.

        RunConfig(datasets=[{"name": "problems.jsonl"}], rewards=["math"], train={"max_steps": 20})

    A section's settings, defaults and bounds stand with the component that reads them; here is only what several of
    them have to agree on. ``bolt_ray.config.loading`` makes one from YAML; a script may give sections as dictionaries.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())

    algo: Algorithm = Field("bolt", description="preset laid under the other settings, see the table of presets")
    name: str = Field("run", description="run directories are runs/<name>-<time> unless run_dir is given")
    run_dir: str | None = Field(
        None,
        description="directory of the run's files; default: runs/<name>-<time>, and in a Ray job below $BOLT_RAY_RUNS",
    )
    resume: str | None = Field(
        None,
        description="'auto', or the directory of the run to go on with, or of a checkpoint; 'if_any': go on if run_dir "
        "has a checkpoint, else begin there",
    )
    resume_changes: tuple[Literal["model", "rewards"], ...] = Field(
        (), description="settings that may differ from the checkpoint's, where they usually must not"
    )
    seed: int = Field(0, ge=0, description="of draws, completions, mini-batches and new adapters")

    model: ModelSettings = ModelSettings()
    arithmetic: ArithmeticSettings = ArithmeticSettings()
    pretrain: RowPretrainSettings = RowPretrainSettings()
    datasets: tuple[DatasetSettings, ...] = Field(min_length=1, description="where the prompts come from")
    data: DataSettings = DataSettings()
    rewards: tuple[Reward, ...] = Field(
        min_length=1, description="what scores a completion; values are weighted and added"
    )
    scoring: ScoringSettings = ScoringSettings()
    sampling: SamplingSettings = SamplingSettings()
    rollout: RolloutSettings = RolloutSettings()
    baseline: ShardedBaselineSettings = ShardedBaselineSettings()
    curriculum: CurriculumSettings = CurriculumSettings()
    advantage: AdvantageOptions = AdvantageOptions()
    loss: LossOptions = LossOptions()
    correction: CorrectionOptions = CorrectionOptions()
    kl: KLSettings = KLSettings()
    reference: ReferenceSettings = ReferenceSettings()
    train: TrainSettings = TrainSettings()
    eval: EvalSettings = EvalSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()
    samples: SamplesSettings = SamplesSettings()
    cluster: ClusterSettings = ClusterSettings()
    generator: GeneratorSettings = GeneratorSettings()
    deadlines: DeadlineSettings = DeadlineSettings()
    logging: LoggingSettings = LoggingSettings()
    profile: ProfileSettings = ProfileSettings()

    @property
    def uses_gpu(self) -> bool:
        """Whether learner and generators get GPUs; of a resolved configuration."""
        assert self.cluster.use_gpu != "auto", "resolve() comes first"
        return self.cluster.use_gpu == "yes"

    def learner(self, *, model_path: str) -> LearnerSettings:
        """What the learner is made from.

        Raises:
            SettingError: sections that contradict each other (a ValueError).
        """
        low, high = self.baseline.scaled_from
        return LearnerSettings(
            model_path=model_path,
            model=self.model,
            train=self.train,
            loss=self.loss,
            kl=self.kl,
            advantage=self.advantage,
            correction=self.correction,
            sampling=self.sampling,
            reference=self.reference,
            reward_width=high - low,
            seed=self.seed,
        )

    @model_validator(mode="before")
    @classmethod
    def _preset_below(cls, given: Any) -> Any:
        """The preset of ``algo`` laid under what was given, and settings known by other names put in their place."""
        if not isinstance(given, dict):
            return given
        tree = {**given, "algo": str(given.get("algo", "bolt")).lower()}
        return lay_under(translate(tree), PRESETS.get(tree["algo"], {}))

    @field_serializer("rewards")
    def _plain_rewards(self, rewards: tuple[RewardSettings, ...]) -> list[dict[str, Any]]:
        return [plain_reward(reward) for reward in rewards]

    @model_validator(mode="after")
    def _reward_names(self) -> RunConfig:
        names = reward_names(self.rewards)
        for place, datasets in (("datasets", self.datasets), ("eval.datasets", self.eval.datasets)):
            wanted = [name for dataset in datasets for name in dataset.rewards if name is not None]
            check_reward_references(names, wanted, place=place)
        part = self.eval.success_part
        if part is not None and part not in names:
            raise ValueError(
                f"eval.success_part: no reward is named {part!r}{nearest_hint(part, names)}; known: {', '.join(names)}"
            )
        return self

    @model_validator(mode="after")
    def _resumable(self) -> RunConfig:
        if self.resume == "if_any" and self.run_dir is None:
            raise ValueError("resume 'if_any' needs run_dir: the directory that every start of the run is to find")
        return self

    @model_validator(mode="after")
    def _groups(self) -> RunConfig:
        rollouts, k = self.rollout.rollouts_per_step, self.rollout.group_size
        if rollouts % k:
            raise ValueError(
                f"rollout.rollouts_per_step {rollouts} is not a multiple of rollout.group_size {k}; "
                f"use {rollouts // k * k or k} or {(rollouts // k + 1) * k}"
            )
        if self.curriculum.strategy == "sec" and self.curriculum.category is None:
            raise ValueError("curriculum.category is needed by strategy 'sec': the metadata column of the categories")
        if self.curriculum.allocate_rollouts and k < 2:
            raise ValueError("curriculum.allocate_rollouts divides a group: it needs rollout.group_size of 2 or more")
        if self.advantage.baseline == "loo_posterior" and k < 2:
            raise ValueError("advantage.baseline 'loo_posterior' needs rollout.group_size of 2 or more")
        if self.advantage.normalize == "group" and k < 2:
            raise ValueError(
                "advantage.normalize 'group' needs rollout.group_size of 2 or more; with 1 use 'token' or 'batch'"
            )
        if self.advantage.diversity_bonus and self.advantage.diversity_within == "group" and k < 2:
            raise ValueError("advantage.diversity_within 'group' needs rollout.group_size of 2 or more; use 'step'")
        if self.rollout.dynamic_sampling and self.advantage.baseline not in ("group", "rloo"):
            raise ValueError("rollout.dynamic_sampling refills groups: it needs advantage.baseline 'group' or 'rloo'")
        return self

    @model_validator(mode="after")
    def _fresh_problems(self) -> RunConfig:
        if self.arithmetic.fresh and self.curriculum.strategy != "uniform":
            raise ValueError(
                f"arithmetic.fresh leaves curriculum.strategy {self.curriculum.strategy!r} nothing to choose by: no "
                "problem comes twice; set curriculum.strategy: uniform"
            )
        return self

    @model_validator(mode="after")
    def _profiled_steps(self) -> RunConfig:
        steps, last = self.profile.steps, self.train.max_steps
        if steps is not None and steps[1] > last:
            raise ValueError(f"profile.steps {list(steps)} go beyond the last step: train.max_steps is {last}")
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
        self.learner(model_path="")
        return self
