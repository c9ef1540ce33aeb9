"""The DeepSpeed configuration of a learner, and what must be set before DeepSpeed's first use."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from bolt_ray.engines.learner.settings import LearnerSettings


def effective_zero_stage(settings: LearnerSettings, dtype: torch.dtype) -> int:
    """Stage 0 has no float32 master weights, so bfloat16 runs as stage 1 (on one rank they are the same)."""
    return 1 if settings.train.zero_stage == 0 and dtype == torch.bfloat16 else settings.train.zero_stage


def deepspeed_config(settings: LearnerSettings, *, dtype: torch.dtype, world_size: int) -> dict[str, Any]:
    """DeepSpeed's JSON for these settings.

    The number of micro-batches changes from step to step, so DeepSpeed is configured for one and the learner marks the
    accumulation boundary itself; the loss is scaled for it (``Denominators.scale``).
    """
    stage = effective_zero_stage(settings, dtype)
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False, "contiguous_gradients": True}
    if settings.train.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if settings.train.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": world_size,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": settings.schedule.peak,
                "betas": list(settings.train.betas),
                "eps": settings.train.adam_epsilon,
                "weight_decay": settings.train.weight_decay,
                # The compiled Adams of DeepSpeed need a compiler and a CUDA toolkit at run time.
                "torch_adam": True,
                "adam_w_mode": True,
            },
        },
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # Stage 0 is clipped by the learner, which has to look at the norm before the step anyway.
        "gradient_clipping": settings.train.max_grad_norm if stage > 0 else 0.0,
        "communication_data_type": "fp32",
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }
    if dtype == torch.bfloat16:
        config["bf16"] = {"enabled": True, "check_grad_overflow": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def prepare_deepspeed() -> None:
    """Silence DeepSpeed's log, prevent its compilation, and make sure there is a process group. Idempotent.

    Without a process group (no Ray Train, no torchrun) one of a single rank is made, in memory: no port is opened.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    import deepspeed
    from deepspeed.ops import __compatible_ops__ as compatible
    from deepspeed.utils import groups, logger

    # Otherwise the first initialization spends two minutes compiling a shared-memory all-reduce.
    compatible["deepspeed_shm_comm"] = False
    logger.setLevel(logging.ERROR)
    # DeepSpeed calls collectives by names that this version of torch is about to rename, on every step.
    warnings.filterwarnings("ignore", message="`torch.distributed", category=FutureWarning)
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        # Another library of this process may have destroyed an earlier group, whose parts DeepSpeed still holds.
        groups._release_process_group_references()
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=dist.get_backend(), dist_init_required=False)


def initialize_engine(
    module: torch.nn.Module, *, parameters: list[torch.nn.Parameter] | None, config: dict[str, Any]
) -> Any:
    """A DeepSpeed engine around ``module``; without parameters it only shards and runs it."""
    import deepspeed

    # Some of its optimizers print their memory use, whatever the log level.
    with contextlib.redirect_stdout(io.StringIO()):
        engine, *_ = deepspeed.initialize(
            model=module, model_parameters=parameters, config=config, dist_init_required=False
        )
    return engine


@contextlib.contextmanager
def partitioned_loading(config: dict[str, Any] | None) -> Iterator[None]:
    """Inside, ``from_pretrained`` loads straight into ZeRO-3 partitions; None changes nothing."""
    if config is None:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    # Transformers keeps a weak reference: this object has to outlive the loading.
    live = HfDeepSpeedConfig(config)
    try:
        yield
    finally:
        del live
        unset_hf_deepspeed_config()


def inference_config(*, dtype: torch.dtype, world_size: int) -> dict[str, Any]:
    """DeepSpeed's JSON for a frozen model sharded over the ranks."""
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": world_size,
        # No parameter stays whole: the partitions are then the only copy, and may be written to.
        "zero_optimization": {"stage": 3, "overlap_comm": False, "stage3_param_persistence_threshold": 0},
        "steps_per_print": 2**31,
    }
    if dtype == torch.bfloat16:
        config["bf16"] = {"enabled": True}
    return config
