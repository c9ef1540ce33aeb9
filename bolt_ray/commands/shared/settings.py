"""From the configuration to the plain values each part takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bolt_ray.actors.generator_pool import GeneratorResources
from bolt_ray.config.cluster import EvalConfig
from bolt_ray.config.model import Dtype
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.advantages import AdvantageOptions
from bolt_ray.core.baseline import BaselineSettings
from bolt_ray.core.corrections import CorrectionOptions
from bolt_ray.core.curriculum import CurriculumSettings
from bolt_ray.engines.learner.settings import LearnerSettings, LoraSettings, ReferenceSettings
from bolt_ray.engines.vllm.engine import EngineSettings, SamplingSettings

GIB = 1024**3

MAX_GAP = {"float32": 0.01, "bfloat16": 0.5}
"""Largest |Δ log p| between generator and learner that is still rounding; ten times what is usual."""


def learner_settings(config: RunConfig, *, model_path: Path, use_gpu: bool) -> LearnerSettings:
    train, model, reference = config.train, config.model, config.reference
    return LearnerSettings(
        model_path=str(model_path),
        trust_remote_code=model.trust_remote_code,
        dtype=resolved_dtype(model.dtype, use_gpu=use_gpu),
        attention=model.attention,
        learning_rate=train.learning_rate,
        betas=train.betas,
        adam_epsilon=train.adam_epsilon,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        lr_schedule=train.lr_schedule,
        warmup_steps=train.warmup_steps,
        total_steps=train.max_steps,
        min_lr_ratio=train.min_lr_ratio,
        zero_stage=train.zero_stage,
        offload_optimizer=train.offload_optimizer,
        offload_parameters=train.offload_parameters,
        micro_batch_tokens=train.micro_batch_tokens,
        packing=train.packing,
        ppo_epochs=train.ppo_epochs,
        minibatch_size=train.minibatch_size,
        recompute_old_logprobs=train.recompute_old_logprobs,
        loss=config.loss_options(),
        top_entropy_fraction=config.loss.top_entropy_fraction,
        kl_coef=config.kl.coef,
        kl=config.kl.options(),
        advantage=advantage_options(config),
        reward_width=config.baseline.reward_range[1] - config.baseline.reward_range[0],
        kl_controller=config.kl.controller,
        kl_controller_parameters=config.kl.controller_parameters(),
        correction=CorrectionOptions(
            level=config.correction.level, mode=config.correction.mode, cap=config.correction.cap
        ),
        temperature=config.sampling.temperature,
        top_p=config.sampling.top_p,
        top_k=config.sampling.top_k,
        min_p=config.sampling.min_p,
        gradient_checkpointing=model.gradient_checkpointing,
        lora=LoraSettings(
            rank=model.lora_r,
            alpha=float(model.lora_alpha),
            target_modules=model.lora_target_modules
            if model.lora_target_modules == "all-linear"
            else tuple(model.lora_target_modules),
        )
        if model.use_peft
        else None,
        reference=ReferenceSettings(
            mode=reference.mode,
            ema_alpha=reference.ema_alpha,
            update_freq=reference.update_freq,
            device=reference.device,
        ),
        seed=config.seed,
        max_bad_steps=train.max_bad_steps,
    )


def advantage_options(config: RunConfig) -> AdvantageOptions:
    advantage = config.advantage
    return AdvantageOptions(baseline=advantage.baseline, normalize=advantage.normalize, clip=advantage.clip)


def engine_settings(config: RunConfig, *, model_path: Path, context_tokens: int, use_gpu: bool) -> EngineSettings:
    generator = config.generator
    return EngineSettings(
        model_dir=str(model_path),
        max_model_len=context_tokens,
        dtype=resolved_dtype(generator.dtype or config.model.dtype, use_gpu=use_gpu),
        max_num_seqs=generator.max_num_seqs,
        kv_cache_bytes=None if use_gpu else int(generator.kv_cache_gib * GIB),
        gpu_memory_utilization=generator.gpu_memory_utilization,
        tensor_parallel_size=config.cluster.tensor_parallel_size,
        enforce_eager=generator.enforce_eager,
        trust_remote_code=config.model.trust_remote_code,
        lora_rank=config.model.lora_r if config.model.use_peft else None,
        seed=config.seed,
    )


def resolved_dtype(dtype: Dtype, *, use_gpu: bool) -> Literal["float32", "bfloat16"]:
    """``auto`` made definite for the whole run, so that generator and learner compute alike: bfloat16 on GPUs.

    On a CPU it is float32: what bfloat16 saves there is less than what the disagreement costs.
    """
    if dtype == "auto":
        return "bfloat16" if use_gpu else "float32"
    return dtype


def max_logprob_gap(config: RunConfig, *, use_gpu: bool) -> float:
    """The limit on generator against learner; bfloat16 on either side loosens it."""
    if config.generator.max_logprob_gap is not None:
        return config.generator.max_logprob_gap
    dtypes = {
        resolved_dtype(dtype, use_gpu=use_gpu)
        for dtype in (config.generator.dtype or config.model.dtype, config.model.dtype)
    }
    return MAX_GAP["bfloat16" if "bfloat16" in dtypes else "float32"]


def generator_resources(config: RunConfig, *, use_gpu: bool) -> GeneratorResources:
    cluster = config.cluster
    return GeneratorResources(
        num_cpus=cluster.cpus_per_generator,
        num_gpus=cluster.gpus_per_generator * cluster.tensor_parallel_size if use_gpu else 0.0,
        num_threads=max(1, int(cluster.cpus_per_generator)),
    )


def sampling_settings(config: RunConfig) -> SamplingSettings:
    sampling = config.sampling
    return SamplingSettings(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        max_new_tokens=sampling.max_new_tokens,
        stop=tuple(sampling.stop),
    )


def eval_sampling(evaluation: EvalConfig, *, training: SamplingSettings) -> SamplingSettings:
    return SamplingSettings(
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
        max_new_tokens=evaluation.max_new_tokens or training.max_new_tokens,
        stop=training.stop,
    )


def baseline_settings(config: RunConfig) -> BaselineSettings:
    baseline = config.baseline
    return BaselineSettings(
        rho_min=baseline.rho_min,
        rho_max=baseline.rho_max,
        d_half=baseline.d_half,
        forgetting=baseline.forgetting,
        kl_source=baseline.kl_source,
        prior=baseline.prior,
        epsilon=config.curriculum.epsilon,
        reward_range=baseline.reward_range,
    )


def curriculum_settings(config: RunConfig) -> CurriculumSettings:
    curriculum = config.curriculum
    return CurriculumSettings(
        strategy=curriculum.strategy,
        epsilon=curriculum.epsilon,
        gamma=curriculum.gamma,
        target=curriculum.target,
        temperature=curriculum.temperature,
        num_bins=curriculum.num_bins,
        learning_rate=curriculum.learning_rate,
        skip_solved=curriculum.skip_solved,
        exploration_floor=curriculum.exploration_floor,
        staleness_bonus=curriculum.staleness_bonus,
        seed=config.seed,
    )
