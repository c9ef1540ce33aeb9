"""What the learner tests share: a tiny model, batches, and ways to look at weights and gradients."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bolt_ray.core.records import TrainingBatch

VOCABULARY = 48


def make_model(path: Path, *, tied: bool = True, vocabulary: int = VOCABULARY, seed: int = 0) -> str:
    """A Qwen2 of some 20,000 parameters, with weights large enough for its distributions to differ."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=30,
        intermediate_size=50,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(path)
    return str(path)


def make_batch(
    step: int = 0,
    *,
    sequences: int = 12,
    seed: int = 0,
    vocabulary: int = VOCABULARY,
    behavior: np.ndarray | None = None,
    inactive: tuple[int, ...] = (),
) -> TrainingBatch:
    """Random tokens of ragged lengths; without ``behavior`` the generator's log-probs are random too."""
    rng = np.random.default_rng((seed, step))
    prompts = rng.integers(1, 6, sequences).astype(np.int32)
    completions = rng.integers(1, 20, sequences).astype(np.int32)
    active = np.ones(sequences, dtype=np.bool_)
    active[list(inactive)] = False
    total = int(completions.sum())
    noise = (-4.0 + 0.3 * rng.standard_normal(total)).astype(np.float32)
    return TrainingBatch(
        step=step,
        token_ids=rng.integers(0, vocabulary, int(prompts.sum()) + total).astype(np.int32),
        prompt_lengths=prompts,
        completion_lengths=completions,
        behavior_logprobs=noise if behavior is None else behavior,
        advantages=rng.standard_normal(sequences).astype(np.float32),
        active=active,
        rewards=rng.random(sequences).astype(np.float32),
    )


def split_sequences(batch: TrainingBatch) -> list[np.ndarray]:
    """Prompt and completion of each sequence."""
    return np.split(batch.token_ids, np.cumsum(batch.lengths)[:-1])


def weights_of(learner: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in learner.iter_weights(torch.float32)}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """max |first − second| over all tensors; NaN if one element is, so that every comparison with it fails."""
    assert first.keys() == second.keys()
    return largest({name: first[name] - second[name] for name in first})


def largest(tensors: dict[str, torch.Tensor]) -> float:
    """The largest absolute value; NaN if one element is (Python's ``max`` would lose it)."""
    return float(torch.stack([tensor.abs().max() for tensor in tensors.values()]).max())


def on_policy(learner: Any, batch: TrainingBatch) -> TrainingBatch:
    """The batch with the learner's own log-probs as the generator's."""
    logprobs = learner.logprobs(split_sequences(batch), batch.prompt_lengths.tolist())
    return dataclasses.replace(batch, behavior_logprobs=np.concatenate(logprobs))


def load_plain(model_path: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)


def plain_logprobs(model: Any, tokens: np.ndarray, prompt: int, temperature: float = 1.0) -> torch.Tensor:
    ids = torch.from_numpy(tokens.astype(np.int64))
    logits = model(input_ids=ids[None]).logits[0, prompt - 1 : -1] / temperature
    return torch.log_softmax(logits, -1).gather(1, ids[prompt:, None])[:, 0]


def gradient(learner: Any, batch: TrainingBatch) -> dict[str, torch.Tensor]:
    """The gradient of one step: with a huge Adam epsilon an update is learning_rate · gradient / epsilon."""
    before = weights_of(learner)
    learner.train_step(batch)
    after = weights_of(learner)
    return {name: before[name] - after[name] for name in before}


LINEAR = {"learning_rate": 1e4, "adam_epsilon": 1e4, "max_grad_norm": 1e9}
