"""Supervised training of a tiny model: demonstrations ─▶ batches of similar length ─▶ cross-entropy ─▶ AdamW."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

_BATCHES_PER_CHUNK = 8
_IGNORED = -100

Demonstration: TypeAlias = tuple[str, str]
"""A prompt, and the completion the model is to give."""


def optimizer_steps(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batches: Iterable[list[Demonstration]],
    *,
    learning_rate: float,
    weight_decay: float,
    factor: Callable[[int], float],
) -> Iterator[float]:
    """Train in place, a step per batch; the loss of each, in nats per completion token, as it is done.

    Args:
        factor: of the learning rate at a step, counted from 0.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.98), weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    for batch in batches:
        model.train()
        input_ids, labels = _encode(batch, tokenizer)
        # No attention mask: padding stands on the right, where causal attention keeps it from every real token.
        logits = model(input_ids=input_ids[:, :-1], use_cache=False).logits
        wanted = labels[:, 1:] != _IGNORED
        loss = torch.nn.functional.cross_entropy(logits[wanted].float(), labels[:, 1:][wanted])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        model.eval()
        yield float(loss.detach())


def warmup_and_cosine(step: int, *, warmup_steps: int, steps: int) -> float:
    """Linear warm-up, then a cosine from 1 down to 0.1; ``step`` counts from 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 0.55 + 0.45 * math.cos(math.pi * min(1.0, progress))


def batches_of_similar_length(
    demonstrations: Iterator[Demonstration], *, batch_size: int, rng: random.Random
) -> Iterator[list[Demonstration]]:
    """Batches of similar length, in random order: padding costs as much as text."""
    while chunk := list(itertools.islice(demonstrations, batch_size * _BATCHES_PER_CHUNK)):
        chunk.sort(key=lambda texts: len(texts[0]) + len(texts[1]))
        batches = [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
        rng.shuffle(batches)
        yield from batches


def _encode(batch: list[Demonstration], tokenizer: PreTrainedTokenizerFast) -> tuple[Tensor, Tensor]:
    """Token ids and labels, both int64 [B, T]: prompt, completion, end of sequence, padding.

    Labels are -100 on the prompt and the padding.
    """
    prompts = tokenizer([prompt for prompt, _ in batch])["input_ids"]
    completions = tokenizer([completion for _, completion in batch])["input_ids"]
    width = max(len(p) + len(c) + 1 for p, c in zip(prompts, completions, strict=True))
    input_ids = torch.full((len(batch), width), int(tokenizer.pad_token_id), dtype=torch.int64)
    labels = torch.full((len(batch), width), _IGNORED, dtype=torch.int64)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        text = torch.tensor([*prompt, *completion, int(tokenizer.eos_token_id)])
        input_ids[row, : len(text)] = text
        labels[row, len(prompt) : len(text)] = text[len(prompt) :]
    return input_ids, labels
