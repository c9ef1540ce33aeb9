"""Starting vLLM inside this process, with the settings rollouts need."""

from __future__ import annotations

import gc
import logging
import os
import re
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bolt_ray.core.errors import EnvironmentProblem, ModelError
from bolt_ray.engines.vllm.settings import EngineSettings
from bolt_ray.engines.vllm.statistics import StatisticsCollector, stat_logger

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks vLLM has kernels for; another one is rounded up."""

REASON_CHARS = 600
_CHECKED = re.compile(r"\A\d+ validation errors? for \w+ (?:Value error, )?")

SERVING_ERRORS = (ValueError, RuntimeError, OSError, KeyError, AssertionError)
"""What vLLM raises for a model that it cannot serve."""


def start_vllm(settings: EngineSettings, collector: StatisticsCollector) -> Any:
    """Build vLLM's engine: one process, log-probs of the distribution sampled from, statistics to ``collector``."""
    # vLLM reads these when it is imported.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # It would bind its threads to cores of its own choosing, the same ones in every process of the machine.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    # This module logs before vLLM's logging is set up.
    logging.getLogger("vllm.triton_utils.importing").setLevel(logging.ERROR)
    try:
        with _nothing_collected_while_importing("vllm.v1.engine.llm_engine"):
            from vllm.engine.arg_utils import EngineArgs
            from vllm.exceptions import VLLMClientError
            from vllm.platforms import current_platform
            from vllm.v1.engine.llm_engine import LLMEngine
    except ImportError as error:
        raise EnvironmentProblem(
            f'vLLM cannot be imported ({error}); install it with pip install "bolt-ray[cpu]", or "bolt-ray[gpu]" on a '
            f"machine with a GPU"
        ) from error
    # On an error it logs every request in flight, megabytes of them; the error itself is raised.
    logging.getLogger("vllm.logging_utils.dump_input").setLevel(logging.CRITICAL + 1)
    if settings.generator.enforce_eager:
        # Eager still compiles one small function of the sampler: seconds at the first step, and a C++ compiler needed.
        torch._dynamo.config.disable = True
    try:
        with warnings.catch_warnings():
            # Its own use of deprecated names of PyTorch.
            warnings.simplefilter("ignore", FutureWarning)
            arguments = engine_arguments(settings, on_cpu=current_platform.is_cpu())
            return LLMEngine.from_engine_args(EngineArgs(**arguments), stat_loggers=[stat_logger(collector)])
    except (*SERVING_ERRORS, VLLMClientError) as error:
        raise not_served(settings.model_dir, error) from error


def not_served(model_dir: str, error: Exception, known: str = "") -> ModelError:
    """What vLLM raised for a model, as the user's error: its reason, after what is ``known`` of it in plainer words."""
    # A check of its settings writes their whole record behind the reason, and the names of all it knows.
    reason = _CHECKED.sub("", " ".join(str(error).split())).partition(" Supported architectures:")[0]
    reason = textwrap.shorten(reason, REASON_CHARS, placeholder=" …") or type(error).__name__
    return ModelError(f"vLLM could not serve {model_dir}: {f'{known} ({reason})' if known else reason}")


def unsupported_head_size(model_config: Any) -> str:
    """What is wrong with the size of the model's attention heads on a CPU, "" if nothing is."""
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    size, served = model_config.get_head_size(), CPUAttentionBackend.get_supported_head_sizes()
    if not current_platform.is_cpu() or size in served:
        return ""
    return f"its attention heads have size {size}, and vLLM serves {', '.join(map(str, served))} on a CPU"


@contextmanager
def _nothing_collected_while_importing(module: str) -> Iterator[None]:
    """Import without the garbage collector, and exempt what was imported from later collections.

    Importing vLLM makes a million objects that live as long as the process. To traverse them again and again takes a
    fifth of the time an engine needs to start: in the collector's own runs and in those that vLLM asks for.
    """
    if module in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def engine_arguments(settings: EngineSettings, *, on_cpu: bool) -> dict[str, Any]:
    """The settings as vLLM's ``EngineArgs``.

    Raises:
        ModelError: an adapter of a rank that vLLM has no kernels for.
    """
    arguments: dict[str, Any] = {
        "model": settings.model_dir,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_len,
        "max_num_seqs": settings.generator.max_num_seqs,
        "max_num_batched_tokens": settings.generator.max_num_batched_tokens,
        "kv_cache_memory_bytes": settings.kv_cache_bytes,
        "gpu_memory_utilization": settings.generator.gpu_memory_utilization,
        "tensor_parallel_size": settings.tensor_parallel_size,
        "distributed_executor_backend": "uni" if settings.tensor_parallel_size == 1 else "mp",
        # vLLM's default is on; an entry computed by older weights or another adapter must never be read.
        "enable_prefix_caching": False,
        "enforce_eager": settings.generator.enforce_eager,
        "trust_remote_code": settings.model.trust_remote_code,
        "seed": settings.seed,
        # The log-probs of the distribution sampled from, and sampling as asked for, not as the model suggests.
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",
        # A token must belong to the step, and so to the weights, that returned it.
        "async_scheduling": False,
        "disable_log_stats": False,
        "use_tqdm_on_load": False,
    }
    if on_cpu:
        if settings.dtype == "bfloat16":
            # Without this call the first bfloat16 matrix product of a machine with AMX ends the process with SIGILL.
            torch.cpu._init_amx()
        # On CPU a prompt prefilled in parts ends the engine when its request has a seed ("CPU Generator does not
        # use offset"), so a step must have room for the longest one; without a number vLLM sees to that.
        arguments["enable_chunked_prefill"] = False
        length = settings.max_model_len
        arguments["max_num_batched_tokens"] = length and max(settings.generator.max_num_batched_tokens, length)
    if settings.lora_rank is not None:
        if settings.lora_rank > LORA_RANKS[-1]:
            raise ModelError(f"vLLM serves adapters up to rank {LORA_RANKS[-1]}, not {settings.lora_rank}")
        arguments["enable_lora"] = True
        arguments["max_lora_rank"] = next(rank for rank in LORA_RANKS if rank >= settings.lora_rank)
        # The newest, and one that requests in flight still use.
        arguments["max_loras"] = 2
    return arguments
