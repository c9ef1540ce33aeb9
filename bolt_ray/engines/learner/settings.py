"""Settings of the learner (``train:``, ``reference:``), and everything a `DeepSpeedLearner` is made from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bolt_ray.core.advantages import AdvantageOptions
from bolt_ray.core.correction_options import CorrectionOptions
from bolt_ray.core.kl_options import KLSettings
from bolt_ray.core.losses.options import LossOptions
from bolt_ray.core.losses.registry import loss_type
from bolt_ray.core.schedules import LearningRateSchedule, ScheduleName
from bolt_ray.core.settings import SettingError, Settings, setting
from bolt_ray.engines.settings import ModelSettings, SamplingSettings

LEARNING_RATE = 1e-6
"""Of all weights: ten times as much is known to collapse models of 1.5 to 7 billion."""
ADAPTER_LEARNING_RATE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings(Settings):
    """``train:`` - the optimizer and how a step is cut into micro-batches."""

    max_steps: int = setting(200, "optimizer steps in all, those before a resume included", unit="steps", ge=1)
    learning_rate: float | Literal["auto"] = setting(
        "auto",
        f"peak of the learning rate (AdamW); auto: {LEARNING_RATE:g} for all weights, {ADAPTER_LEARNING_RATE:g} for an "
        "adapter",
    )
    lr_schedule: ScheduleName = setting("constant", "what follows the warm-up")
    warmup_steps: int = setting(0, "steps over which the learning rate rises linearly", unit="steps", ge=0)
    min_lr_ratio: float = setting(0.0, "cosine and linear: final learning rate over the peak", ge=0, le=1)
    weight_decay: float = setting(0.0, "of AdamW", ge=0)
    betas: tuple[float, float] = setting((0.9, 0.999), "of AdamW")
    adam_epsilon: float = setting(1e-8, "of AdamW", gt=0)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this global L2 norm", gt=0)
    zero_stage: Literal[0, 1, 2, 3] = setting(
        0, "DeepSpeed ZeRO: 1 shards the optimizer, 2 also gradients, 3 also weights; bfloat16 with 0 runs as 1"
    )
    offload_optimizer: bool = setting(False, "keep the optimizer's state in host memory (zero_stage 1 to 3)")
    offload_parameters: bool = setting(False, "keep the weights in host memory (zero_stage 3)")
    micro_batch_tokens: int = setting(
        16_384, "tokens one rank holds in a forward pass, padding included", unit="tokens", ge=1
    )
    ppo_epochs: int = setting(1, "passes over a batch", ge=1)
    minibatch_size: int | None = setting(
        None, "sequences of one optimizer step over all ranks; default: the whole batch", unit="sequences", ge=1
    )
    recompute_old_logprobs: bool | None = setting(
        None,
        "π_old from the learner before its first update instead of the generator's own; default: where one batch makes "
        "several optimizer steps, and with the losses gspo and reinforce",
    )
    router_aux_loss_coef: float = setting(
        0.0,
        "mixture of experts: weight of the router's load-balancing loss on the trained tokens (Switch Transformer, "
        "arXiv 2101.03961, eq. 4); 0: none",
        ge=0,
    )
    packing: bool = setting(True, "lay several sequences into a row; off by itself for a model that mixes them up")
    max_bad_steps: int = setting(5, "non-finite steps in a row that end the run", unit="steps", ge=1)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.learning_rate != "auto" and self.learning_rate <= 0:
            raise SettingError("learning_rate", f"must be auto or above 0, not {self.learning_rate:g}")
        if self.offload_parameters and self.zero_stage != 3:
            raise SettingError("offload_parameters", f"needs zero_stage 3, not {self.zero_stage}")
        if self.offload_optimizer and self.zero_stage == 0:
            raise SettingError("offload_optimizer", "needs zero_stage 1, 2 or 3, not 0")

    def peak_learning_rate(self, *, use_peft: bool) -> float:
        """The learning rate given; of ``auto`` the one for an adapter, or for all weights."""
        if self.learning_rate == "auto":
            return ADAPTER_LEARNING_RATE if use_peft else LEARNING_RATE
        return self.learning_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSettings(Settings):
    """``reference:`` - the model the KL term pulls towards; loaded only if it is needed."""

    mode: Literal["static", "ema", "periodic"] = setting(
        "static",
        "static: the initial policy; ema: follows the policy, ref = ema_alpha * ref + (1 - ema_alpha) * policy after "
        "every step; periodic: copies it every update_freq steps",
    )
    ema_alpha: float = setting(0.99, "ema: the kept fraction", ge=0, le=1)
    update_freq: int = setting(500, "periodic: steps between copies", unit="steps", ge=1)
    path: str | None = setting(None, "a model directory for the reference; default: the policy's own")
    device: Literal["auto", "cpu"] = setting(
        "auto", "auto: beside the policy (sharded with zero_stage 3); cpu: in host memory"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """Everything `DeepSpeedLearner` needs: the sections it reads, made definite.

    Attributes:
        model_path: the policy's Hugging Face model directory.
        reward_width: hi − lo of the reward range; read only where the KL belongs to the reward (``kl.placement``).
        seed: of the mini-batch shuffle and of a new adapter.

    Raises:
        SettingError: sections that contradict each other (a ValueError).
    """

    model_path: str
    model: ModelSettings = field(default_factory=ModelSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    loss: LossOptions = field(default_factory=LossOptions)
    kl: KLSettings = field(default_factory=KLSettings)
    advantage: AdvantageOptions = field(default_factory=AdvantageOptions)
    correction: CorrectionOptions = field(default_factory=CorrectionOptions)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    reward_width: float
    seed: int

    def __post_init__(self) -> None:
        if self.train.recompute_old_logprobs is False and loss_type(self.loss.type).own_old_policy:
            raise SettingError(
                "train.recompute_old_logprobs",
                f"false leaves loss.type {self.loss.type} without a π_old of the learner's own, and what the generator "
                "differs by uncorrected; leave it out",
            )
        if self.loss.type == "reinforce" and (self.train.ppo_epochs > 1 or self.train.minibatch_size is not None):
            raise SettingError(
                "loss.type",
                "reinforce has no ratio to its own earlier updates: it makes one optimizer step per batch; with "
                "train.ppo_epochs or train.minibatch_size use cispo, which bounds the same gradient",
            )
        if self.sampling.temperature == 0:
            raise SettingError("sampling.temperature", "0 explores nothing; training needs a temperature above 0")
        if self.model.use_peft and self.reference.mode != "static":
            raise SettingError(
                "reference.mode",
                f"{self.reference.mode} follows all weights, but only an adapter is trained; use static, which is the "
                "base model with the adapter off",
            )
        if self.model.use_peft and self.reference.path is not None:
            raise SettingError("reference.path", "has no use with LoRA, where the base model is the reference")

    @property
    def schedule(self) -> LearningRateSchedule:
        return LearningRateSchedule(
            name=self.train.lr_schedule,
            peak=self.train.peak_learning_rate(use_peft=self.model.use_peft),
            warmup_steps=self.train.warmup_steps,
            total_steps=self.train.max_steps,
            min_ratio=self.train.min_lr_ratio,
        )

    @property
    def needs_reference(self) -> bool:
        """True if anything reads reference log-probs."""
        return self.kl.coef > 0.0
