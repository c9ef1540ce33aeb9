"""What a learner is told: plain values, checked on construction."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bolt_ray.core.advantages import AdvantageOptions
from bolt_ray.core.corrections import CorrectionOptions
from bolt_ray.core.errors import ConfigError, EnvironmentProblem
from bolt_ray.core.kl import KLOptions, check_kl_options
from bolt_ray.core.kl_controllers import make_kl_controller
from bolt_ray.core.losses import LossOptions
from bolt_ray.core.schedules import LearningRateSchedule, ScheduleName

DtypeName = Literal["auto", "float32", "bfloat16"]
ReferenceMode = Literal["static", "ema", "periodic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """A LoRA adapter (arXiv 2106.09685): W + (alpha / rank)·BA on the named linear layers.

    There is no dropout: the learner's log-probs must be those of the policy that generated.

    Attributes:
        rank, alpha: see above.
        target_modules: names of linear layers, or "all-linear" for all but the output layer.
    """

    rank: int = 16
    alpha: float = 32.0
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSettings:
    """The model the KL term pulls towards; loaded only if it is needed.

    Attributes:
        mode: "static" keeps the initial policy, "ema" follows it (ref ← α·ref + (1 − α)·π after every step),
            "periodic" copies it every ``update_freq`` steps.
        ema_alpha: α, the kept fraction.
        update_freq: steps between copies.
        path: a model directory for the reference; None takes the policy's own.
        device: "auto" puts it beside the policy (and shards it with ZeRO-3), "cpu" into host memory.
    """

    mode: ReferenceMode = "static"
    ema_alpha: float = 0.99
    update_freq: int = 500
    path: str | None = None
    device: Literal["auto", "cpu"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSettings:
    """Everything `DeepSpeedLearner` needs.

    Attributes:
        model_path: a Hugging Face model directory.
        trust_remote_code: run the Python code of the model directory.
        dtype: arithmetic of the model; "auto" is bfloat16 on a GPU that has it, else float32. Master weights,
            optimizer state and gradient accumulation are float32 either way.
        attention: attention implementation of Transformers ("sdpa", "eager", "flash_attention_2").
        learning_rate, betas, adam_epsilon, weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this global L2 norm.
        lr_schedule, warmup_steps, total_steps, min_lr_ratio: see `LearningRateSchedule`.
        zero_stage: 0 to 3; bfloat16 with 0 runs as 1, where the float32 master weights live.
        offload_optimizer, offload_parameters: keep them in host memory (stages 1–3, stage 3).
        micro_batch_tokens: tokens of one forward pass on one rank, padding included.
        packing: lay several sequences into a row; switched off by itself for a model that mixes them up.
        ppo_epochs: passes over a batch.
        minibatch_size: sequences of one optimizer step over all ranks; None takes the whole batch.
        loss: type and numbers of the policy loss.
        top_entropy_fraction: train only this share of tokens, those of the highest entropy.
        kl_coef, kl: the KL term; 0 loads no reference.
        advantage, reward_width: how advantages are made, and hi − lo of the reward range; read only where the KL
            belongs to the reward (``kl.placement``).
        kl_controller, kl_controller_parameters: name and numbers of the controller of the coefficient.
        correction: importance weights for what another policy generated.
        recompute_old_logprobs: π_old from the learner before its first update instead of the generator's own;
            None does so when one batch makes several optimizer steps (there it is needed).
        temperature, top_k, top_p, min_p: of sampling; log-probs here are those of the same distribution.
        gradient_checkpointing: recompute activations in the backward pass.
        lora: train an adapter instead of all weights.
        reference: see `ReferenceSettings`.
        seed: of the mini-batch shuffle and of a new adapter.
        max_bad_steps: non-finite steps in a row that end the run.
    """

    model_path: str
    trust_remote_code: bool = False
    dtype: DtypeName = "auto"
    attention: str = "sdpa"
    learning_rate: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_schedule: ScheduleName = "constant"
    warmup_steps: int = 0
    total_steps: int | None = None
    min_lr_ratio: float = 0.0
    zero_stage: Literal[0, 1, 2, 3] = 0
    offload_optimizer: bool = False
    offload_parameters: bool = False
    micro_batch_tokens: int = 16_384
    packing: bool = True
    ppo_epochs: int = 1
    minibatch_size: int | None = None
    loss: LossOptions = field(default_factory=LossOptions)
    top_entropy_fraction: float = 1.0
    kl_coef: float = 0.0
    kl: KLOptions = field(default_factory=KLOptions)
    kl_controller: str | None = None
    kl_controller_parameters: Mapping[str, Any] = field(default_factory=dict)
    advantage: AdvantageOptions = field(default_factory=AdvantageOptions)
    reward_width: float = 1.0
    correction: CorrectionOptions = field(default_factory=CorrectionOptions)
    recompute_old_logprobs: bool | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    gradient_checkpointing: bool = False
    lora: LoraSettings | None = None
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    seed: int = 0
    max_bad_steps: int = 5

    def __post_init__(self) -> None:
        check_learner_settings(self)

    @property
    def schedule(self) -> LearningRateSchedule:
        return LearningRateSchedule(
            name=self.lr_schedule,
            peak=self.learning_rate,
            warmup_steps=self.warmup_steps,
            total_steps=self.total_steps,
            min_ratio=self.min_lr_ratio,
        )

    @property
    def needs_reference(self) -> bool:
        """True if anything reads reference log-probs."""
        return self.kl_coef > 0.0 or self.kl_controller is not None


def check_learner_settings(settings: LearnerSettings) -> None:
    """Refuse what cannot work, before any process starts.

    Raises:
        ConfigError: a value out of range or an impossible combination; the message names the setting.
        EnvironmentProblem: a library that a setting needs is not installed.
    """
    s = settings
    for name, bad in (
        ("learning_rate", s.learning_rate <= 0),
        ("max_grad_norm", s.max_grad_norm <= 0),
        ("micro_batch_tokens", s.micro_batch_tokens < 1),
        ("ppo_epochs", s.ppo_epochs < 1),
        ("minibatch_size", s.minibatch_size is not None and s.minibatch_size < 1),
        ("temperature", s.temperature <= 0),
        ("top_k", s.top_k < 0),
        ("top_p", not 0 < s.top_p <= 1),
        ("min_p", not 0 <= s.min_p < 1),
        ("top_entropy_fraction", not 0 < s.top_entropy_fraction <= 1),
        ("max_bad_steps", s.max_bad_steps < 1),
        ("reference.ema_alpha", not 0 <= s.reference.ema_alpha <= 1),
        ("reference.update_freq", s.reference.update_freq < 1),
    ):
        if bad:
            raise ConfigError(f"the learner's {name} is out of range: see its description in LearnerSettings")
    if s.zero_stage not in (0, 1, 2, 3):
        raise ConfigError(f"zero_stage must be 0, 1, 2 or 3, not {s.zero_stage}")
    if s.offload_optimizer and s.zero_stage == 0:
        raise ConfigError("offload_optimizer needs zero_stage 1, 2 or 3, not 0")
    if s.offload_parameters and s.zero_stage != 3:
        raise ConfigError(f"offload_parameters needs zero_stage 3, not {s.zero_stage}")
    if s.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise EnvironmentProblem("attention flash_attention_2 needs the package flash-attn; use attention sdpa")
    if s.lora is not None and s.reference.mode != "static":
        raise ConfigError(
            f"reference.mode {s.reference.mode} follows all weights, but only an adapter is trained; "
            "use reference.mode static, which is the base model with the adapter off"
        )
    if s.lora is not None and s.reference.path is not None:
        raise ConfigError("with LoRA the reference is the base model; leave reference.path out")
    try:
        check_kl_options(s.kl, coef=s.kl_coef, controller=s.kl_controller)
        make_kl_controller(s.kl_controller, s.kl_coef, **s.kl_controller_parameters)
        _ = s.schedule
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error
