"""A tiny decoder with random weights, in an architecture that Transformers and vLLM both implement.

Llama when dense, Qwen3-MoE with experts: for Qwen2 Transformers ignores the tokenizer's files and uses its own
byte-level one. Head sizes and widths are multiples of 32, which vLLM's kernels for CPUs support.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

from bolt_ray.tasks.tiny.settings import TinyModelSettings
from bolt_ray.tasks.tiny.tokenizer import build_tokenizer


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


def create_model(
    settings: TinyModelSettings, *, seed: int, more_characters: str = ""
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A freshly initialized float32 model on the CPU, and its tokenizer, which knows ``more_characters`` than ASCII."""
    tokenizer = build_tokenizer(max_length=settings.context_length, more=more_characters)
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


def _expert_config(settings: TinyModelSettings, shape: _Shape, shared: dict[str, object]) -> Qwen3MoeConfig:
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
