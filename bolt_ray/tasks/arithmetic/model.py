"""A tiny decoder with random weights, in an architecture that Transformers and vLLM both implement.

Llama when dense, Qwen3-MoE with experts: for Qwen2 Transformers ignores the tokenizer's files and uses its own
byte-level one. Head sizes and widths are multiples of 32, which vLLM's kernels for CPUs support.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import torch
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from bolt_ray.tasks.arithmetic.tokenizer import build_tokenizer

ModelSize: TypeAlias = Literal["tiny", "small", "medium", "large"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shape:
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int


_SHAPES: dict[str, _Shape] = {
    "tiny": _Shape(hidden=96, layers=2, heads=3, key_value_heads=3, intermediate=256),
    "small": _Shape(hidden=192, layers=4, heads=6, key_value_heads=3, intermediate=512),
    "medium": _Shape(hidden=384, layers=6, heads=6, key_value_heads=3, intermediate=1024),
    "large": _Shape(hidden=768, layers=12, heads=12, key_value_heads=4, intermediate=2048),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """What model to make.

    Attributes:
        size: tiny (0.2 M parameters), small (1.7 M), medium (10 M) or large (76 M).
        tie_embeddings: use the input embedding as the output head.
        num_experts: experts per layer; 0 makes a dense model. An expert is as wide as the dense block divided
            by ``active_experts``, so that a token costs the same.
        active_experts: experts a token goes through; 0 exactly when ``num_experts`` is.
        context_length: longest prompt plus completion, tokens.
    """

    size: ModelSize = "tiny"
    tie_embeddings: bool = False
    num_experts: int = 0
    active_experts: int = 0
    context_length: int = 512

    def __post_init__(self) -> None:
        if self.size not in get_args(ModelSize):
            raise ValueError(f"size must be one of {', '.join(get_args(ModelSize))}, not {self.size!r}")
        if self.context_length < 32:
            raise ValueError(f"context_length must be at least 32, not {self.context_length}")
        if (self.num_experts, self.active_experts) != (0, 0) and not (
            1 <= self.active_experts <= self.num_experts and self.num_experts >= 2
        ):
            raise ValueError(
                f"num_experts {self.num_experts} and active_experts {self.active_experts}: give 2 or more experts "
                "and 1 … num_experts active ones, or 0 and 0 for a dense model"
            )


def create_model(settings: ModelSettings, *, seed: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A freshly initialized float32 model on the CPU, and its tokenizer."""
    tokenizer = build_tokenizer(max_length=settings.context_length)
    shape = _SHAPES[settings.size]
    shared = {
        "vocab_size": len(tokenizer),
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_value_heads,
        "head_dim": shape.hidden // shape.heads,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": settings.context_length,
        "tie_word_embeddings": settings.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dtype": "float32",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.num_experts == 0:
            model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**shared))
        else:
            model = Qwen3MoeForCausalLM(_expert_config(settings, shape, shared))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True
    )
    return model.float(), tokenizer


def _expert_config(settings: ModelSettings, shape: _Shape, shared: dict[str, object]) -> Qwen3MoeConfig:
    width = max(32, shape.intermediate // settings.active_experts // 32 * 32)
    return Qwen3MoeConfig(
        **shared,
        num_experts=settings.num_experts,
        num_experts_per_tok=settings.active_experts,
        moe_intermediate_size=width,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
    )


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a Hugging Face model directory: safetensors, config, generation config and tokenizer."""
    model.save_pretrained(directory, safe_serialization=True)
    tokenizer.save_pretrained(directory)
