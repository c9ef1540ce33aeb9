"""Untrained models and adapters, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.content }}{% endfor %}{% if add_generation_prompt %}={% endif %}"
)


def make_model(
    directory: Path, *, tie_embeddings: bool, context_length: int = 64, chat_template: str | None = CHAT_TEMPLATE
) -> Path:
    from bolt_ray.tasks.tiny.model import create_model, save_model
    from bolt_ray.tasks.tiny.settings import TinyModelSettings

    settings = TinyModelSettings(tie_embeddings=tie_embeddings, context_length=context_length)
    model, tokenizer = create_model(settings, seed=1)
    tokenizer.chat_template = chat_template
    save_model(model, tokenizer, directory)
    return directory


def make_adapter(base: Path, directory: Path, *, rank: int = 8) -> None:
    """A LoRA adapter that changes what the base model says; the same one at every call."""
    import peft
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    # PEFT draws lora_A from PyTorch's global generator and sets lora_B to 0.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        wrapped: Any = peft.get_peft_model(model, config)
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    wrapped.save_pretrained(directory)
