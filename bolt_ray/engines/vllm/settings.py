"""What is generated with: plain values, read without importing vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

Dtype = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """How tokens are drawn. Each completion draws from its request's own seed, whatever else is in the batch.

    Attributes:
        temperature: 0 takes the most likely token.
        top_p, top_k, min_p: truncations of the distribution; 1, 0 and 0 leave it whole.
        max_new_tokens: length limit of a completion.
        stop: strings that end a completion.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int = 512
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What is served, and with how much memory.

    Attributes:
        model_dir: a Hugging Face model directory with safetensors files and a tokenizer.
        max_model_len: longest prompt plus completion, in tokens; None: what the model's config says.
        dtype: "auto" is bfloat16 where the hardware multiplies it natively, else float32.
        max_num_seqs: requests decoded together.
        max_num_batched_tokens: tokens of one engine step, prompts included.
        kv_cache_bytes: size of the key-value cache; None only on GPU, where ``gpu_memory_utilization`` sets it.
        gpu_memory_utilization: share of a GPU's memory that weights and cache may take.
        tensor_parallel_size: GPUs one engine spans.
        enforce_eager: run the model without compiling or capturing it.
        trust_remote_code: run Python code shipped in the model directory.
        lora_rank: rank of the adapters ``update_adapter`` will bring; None serves plain weights.
        seed: seed of what is drawn without a request's own seed.
    """

    model_dir: str
    max_model_len: int | None = None
    dtype: Dtype = "float32"
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    kv_cache_bytes: int | None = 512 * 1024 * 1024
    gpu_memory_utilization: float = 0.85
    tensor_parallel_size: int = 1
    enforce_eager: bool = True
    trust_remote_code: bool = False
    lora_rank: int | None = None
    seed: int = 0


def native_bfloat16() -> bool:
    """True if this machine multiplies bfloat16 natively: a GPU, or a CPU with AMX (which this call enables)."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    # Without this call the first bfloat16 matrix product of an AMX machine ends the process with SIGILL.
    return bool(torch.cpu._init_amx())


def resolve_dtype(dtype: Dtype) -> Literal["float32", "bfloat16"]:
    """``auto`` made definite for this machine."""
    if dtype == "auto":
        return "bfloat16" if native_bfloat16() else "float32"
    return dtype
