"""Processes and where they run, evaluation, checkpoints, deadlines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from bolt_ray.config.base import Section
from bolt_ray.config.data import DatasetConfig


class ClusterConfig(Section):
    """``cluster:`` - how many of each process, and what each asks Ray for."""

    address: str | None = Field(None, description="default: join RAY_ADDRESS or a running Ray, else start one")
    dashboard: bool = Field(False, description="with a Ray started here: its dashboard on 127.0.0.1:8265")
    wait_for_nodes: bool = Field(False, description="start although resources are missing: an autoscaler adds nodes")
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    num_learners: PositiveInt = Field(1, description="DeepSpeed ranks")
    num_generators: PositiveInt = 1
    cpus_per_learner: PositiveFloat = 1.0
    cpus_per_generator: PositiveFloat = 1.0
    cpus_per_shard: PositiveFloat = 0.1
    gpus_per_learner: NonNegativeFloat = 1.0
    gpus_per_generator: NonNegativeFloat = 1.0
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs one generator spans")
    max_generator_replacements: NonNegativeInt = 8


class GeneratorConfig(Section):
    """``generator:`` - the vLLM engine."""

    dtype: Literal["auto", "float32", "bfloat16"] | None = Field(None, description="default: model.dtype")
    max_num_seqs: PositiveInt = 256
    kv_cache_gib: PositiveFloat = Field(0.5, description="CPU: memory of the KV cache; GPU: gpu_memory_utilization")
    gpu_memory_utilization: float = Field(0.85, gt=0, le=1)
    enforce_eager: bool = True
    max_logprob_gap: PositiveFloat | None = Field(
        None,
        description="fail when generator and learner disagree by more; default 0.01 float32, 0.5 bfloat16",
    )


class ScoringSection(Section):
    """``scoring:`` - the scorers, and the processes the rewards run in.

    Attributes:
        num_scorers: scorer actors.
        cpus_per_scorer, gpus_per_scorer: what each asks of the cluster; a GPU only for reward models.
        batch_size: completions a scorer takes at a time.
        timeout_s: wall-clock limit of one call of a reward.
        startup_timeout_s: limit on a scorer's start, with imports and models.
        memory_mb: private memory of one reward process.
        max_unscored_fraction: the run stops when a larger share of completions gets no verdict.
    """

    num_scorers: PositiveInt = 1
    cpus_per_scorer: PositiveFloat = 0.25
    gpus_per_scorer: NonNegativeFloat = 0.0
    batch_size: PositiveInt = 16
    timeout_s: PositiveFloat = 10.0
    startup_timeout_s: PositiveFloat = 120.0
    memory_mb: int = Field(default=4096, ge=64)
    max_unscored_fraction: float = Field(default=0.5, ge=0, le=1)


class EvalConfig(Section):
    """``eval:`` - held-out problems, never seen by the baseline."""

    every_steps: NonNegativeInt = Field(50, description="0: only before and after training")
    datasets: list[DatasetConfig] = Field(
        default_factory=list, description="default: the prompts that data.heldout_* keeps out of training"
    )
    num_problems: PositiveInt | None = Field(None, description="default: all held-out problems")
    num_samples: PositiveInt = Field(1, description="completions per problem")
    success_reward: float = Field(1.0, description="a completion is right when its reward reaches this")
    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: PositiveInt | None = Field(None, description="default: sampling.max_new_tokens")
    seed: int = 1234
    at_start: bool = True
    at_end: bool = True


class CheckpointConfig(Section):
    """``checkpoint:`` - what is saved and kept."""

    every_steps: NonNegativeInt = Field(100, description="0: only at the end")
    keep: PositiveInt = Field(2, description="newest checkpoints kept")


class DeadlineConfig(Section):
    """``deadlines:`` - how long each wait may take before the run stops and says what it waited for."""

    startup_s: PositiveFloat = 600.0
    generation_s: PositiveFloat = Field(600.0, description="without any progress of a generator")
    step_s: PositiveFloat = Field(1800.0, description="one optimizer step")
    sync_s: PositiveFloat = 300.0
    baseline_s: PositiveFloat = 60.0
    prompts_s: PositiveFloat = 300.0
