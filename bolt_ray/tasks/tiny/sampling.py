"""A plain batched sampler with a key-value cache, for measuring small models without an inference engine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerFast


@torch.inference_mode()
def sample_completions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    batch_size: int = 256,
) -> list[str]:
    """One completion per prompt, decoded without special tokens.

    Args:
        temperature: 0 takes the likeliest token; otherwise the full distribution at this temperature.
        max_new_tokens: a completion that has not ended by then is cut.
        seed: of the sampling; the same seed and batch size give the same completions on the same machine.
    """
    generator = torch.Generator().manual_seed(seed)
    # Prompts of similar length share a batch: left padding costs as much as text.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    completions = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer([prompts[i] for i in chosen], padding=True, padding_side="left", return_tensors="pt")
        tokens = _sample_batch(
            model,
            prompt_ids=batch["input_ids"],
            prompt_mask=batch["attention_mask"],
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            generator=generator,
            eos=int(tokenizer.eos_token_id),
            pad=int(tokenizer.pad_token_id),
        )
        for i, text in zip(chosen, tokenizer.batch_decode(tokens, skip_special_tokens=True), strict=True):
            completions[i] = text
    return completions


def _sample_batch(
    model: PreTrainedModel,
    *,
    prompt_ids: Tensor,
    prompt_mask: Tensor,
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator,
    eos: int,
    pad: int,
) -> Tensor:
    """int64 [B, ≤ max_new_tokens]: tokens after left-padded prompts [B, P], padded after the end of sequence."""
    cache = DynamicCache(config=model.config)
    mask = prompt_mask
    positions = (prompt_mask.cumsum(1) - 1).clamp(min=0)
    inputs = prompt_ids
    ended = torch.zeros(prompt_ids.shape[0], dtype=torch.bool)
    columns: list[Tensor] = []
    for _ in range(max_new_tokens):
        output = model(
            input_ids=inputs,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits = output.logits[:, -1].float()
        if temperature == 0.0:
            token = logits.argmax(-1)
        else:
            token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator).squeeze(1)
        columns.append(token.masked_fill(ended, pad))
        ended |= token == eos
        if bool(ended.all()):
            break
        inputs = columns[-1][:, None]
        mask = torch.cat([mask, torch.ones_like(inputs)], dim=1)
        positions = positions[:, -1:] + 1
    return torch.stack(columns, dim=1)
