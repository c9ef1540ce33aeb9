"""Settings of the generators' engine (``generator:``), read without importing vLLM."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bolt_ray.core.settings import Settings, setting
from bolt_ray.engines.settings import Dtype, ModelSettings

GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSettings(Settings):
    """``generator:`` - the vLLM engine."""

    dtype: Dtype | None = setting(None, "arithmetic of the generators; default: model.dtype")
    max_num_seqs: int = setting(256, "requests decoded together", ge=1)
    max_num_batched_tokens: int = setting(8192, "tokens of one engine step, prompts included", unit="tokens", ge=1)
    kv_cache_gib: float = setting(
        0.5, "CPU: memory of the key-value cache; GPU: see gpu_memory_utilization", unit="GiB", gt=0
    )
    gpu_memory_utilization: float = setting(
        0.85, "GPU: share of its memory that weights and cache may take", gt=0, le=1
    )
    enforce_eager: bool = setting(True, "run the model without compiling or capturing it")
    max_logprob_gap: float | None = setting(
        None,
        "stop when generator and learner disagree by more on any token; default: 0.01 in float32, 0.5 in bfloat16",
        unit="nats",
        gt=0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Everything a `VLLMEngine` is made from.

    Attributes:
        model_dir: a Hugging Face model directory with safetensors files and a tokenizer.
        dtype: of the engine, definite.
        max_model_len: longest prompt plus completion, tokens; None: what the model's config says.
        on_gpu: the key-value cache is sized by ``gpu_memory_utilization`` instead of ``kv_cache_gib``.
        tensor_parallel_size: GPUs one engine spans.
        seed: of what is drawn without a request's own seed.
    """

    model_dir: str
    dtype: Literal["float32", "bfloat16"]
    model: ModelSettings = field(default_factory=ModelSettings)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    max_model_len: int | None
    on_gpu: bool
    tensor_parallel_size: int
    seed: int

    @property
    def lora_rank(self) -> int | None:
        """Rank of the adapters ``update_adapter`` will bring; None serves plain weights."""
        return self.model.lora_r if self.model.use_peft else None

    @property
    def kv_cache_bytes(self) -> int | None:
        """Size of the key-value cache; None where a share of the GPU sets it."""
        return None if self.on_gpu else int(self.generator.kv_cache_gib * GIB)
