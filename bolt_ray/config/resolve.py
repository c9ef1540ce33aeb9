"""Every ``auto`` and every default that depends on another setting, made definite, once, for the whole run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from bolt_ray.config.schema import RunConfig
from bolt_ray.engines.settings import Dtype, SamplingSettings
from bolt_ray.engines.vllm.settings import EngineSettings
from bolt_ray.rewards.settings import definite_rewards, reward_range

MAX_GAP = {"float32": 0.01, "bfloat16": 0.5}
"""Largest |Δ log p| between generator and learner that is still rounding; ten times what is usual."""


def resolve(config: RunConfig, *, use_gpu: bool) -> RunConfig:
    """The configuration as the run uses it; resolving it again changes nothing.

    Args:
        use_gpu: whether learner and generators get GPUs.
    """
    dtype = _definite(config.model.dtype, use_gpu=use_gpu)
    generated_in = _definite(config.generator.dtype or config.model.dtype, use_gpu=use_gpu)
    gap = config.generator.max_logprob_gap
    if gap is None:
        gap = MAX_GAP["bfloat16" if "bfloat16" in (dtype, generated_in) else "float32"]
    clip_low, clip_high = config.loss.clip_range
    max_new_tokens = config.sampling.max_new_tokens
    limits = config.scoring
    rewards = definite_rewards(config.rewards, timeout_s=limits.timeout_s, memory_mb=limits.memory_mb, env=limits.env)
    learning_rate = config.train.peak_learning_rate(use_peft=config.model.use_peft)
    truncated = config.baseline.skip_truncated
    changed = {
        "model": replace(config.model, dtype=dtype),
        "generator": replace(config.generator, dtype=generated_in, max_logprob_gap=gap),
        "loss": replace(
            config.loss,
            aggregation=config.loss.resolved_aggregation,
            clip_low=clip_low,
            clip_high=clip_high,
            max_completion_tokens=config.loss.max_completion_tokens or max_new_tokens,
        ),
        "eval": replace(config.eval, max_new_tokens=config.eval.max_new_tokens or max_new_tokens),
        "rewards": rewards,
        "baseline": replace(
            config.baseline,
            reward_range=config.baseline.reward_range
            or reward_range(rewards, [name for dataset in config.datasets for name in dataset.rewards]),
            skip_truncated=config.loss.mask_truncated if truncated is None else truncated,
        ),
        "train": replace(config.train, learning_rate=learning_rate),
        **_fresh_problems(config),
        "scoring": replace(config.scoring, gpus_per_scorer=config.scoring.gpus_per_scorer if use_gpu else 0.0),
        "cluster": replace(config.cluster, use_gpu="yes" if use_gpu else "no"),
    }
    return config.model_copy(update=changed)


def _fresh_problems(config: RunConfig) -> dict[str, Any]:
    """``arithmetic.fresh``: as many problems as the run may draw, in one window in which none comes twice.

    A store of fixed rows is kept: a resumed run finds the same problems, and the stream, its log and the held-out
    problems are what they are without it.
    """
    if not config.arithmetic.fresh:
        return {}
    rollout = config.rollout
    # One more, or the next window would be drawn in the last step.
    steps = config.train.max_steps + rollout.max_staleness + 1
    if rollout.dynamic_sampling:
        steps *= 1 + rollout.dynamic_sampling_rounds
    return {
        "arithmetic": replace(config.arithmetic, num_train=steps * rollout.prompts_per_step),
        "curriculum": replace(config.curriculum, update_freq=steps, window_steps=steps),
    }


def engine_settings(config: RunConfig, *, model_path: str, context_tokens: int) -> EngineSettings:
    """What a generator's engine is made from; ``config`` is resolved."""
    dtype = config.generator.dtype
    assert dtype in ("float32", "bfloat16"), "resolve() comes first"
    return EngineSettings(
        model_dir=model_path,
        dtype=dtype,
        model=config.model,
        generator=config.generator,
        max_model_len=context_tokens,
        on_gpu=config.uses_gpu,
        tensor_parallel_size=config.cluster.tensor_parallel_size,
        seed=config.seed,
    )


def eval_sampling(config: RunConfig) -> SamplingSettings:
    """How an evaluation draws: its own temperature, cuts and length, and training's stops."""
    evaluation = config.eval
    return SamplingSettings(
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
        top_k=evaluation.top_k,
        min_p=evaluation.min_p,
        max_new_tokens=evaluation.max_new_tokens or config.sampling.max_new_tokens,
        stop=config.sampling.stop,
        stop_token_ids=config.sampling.stop_token_ids,
    )


def _definite(dtype: Dtype, *, use_gpu: bool) -> Literal["float32", "bfloat16"]:
    """One rule for learner and generators: bfloat16 on GPUs.

    On a CPU it is float32: what bfloat16 saves there is less than what the disagreement of the two sides costs.
    """
    if dtype == "auto":
        return "bfloat16" if use_gpu else "float32"
    return dtype
