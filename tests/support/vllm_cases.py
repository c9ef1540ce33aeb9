"""Real engines, the Transformers models whose weights they have, and comparisons of the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from support.settings import engine_settings

from bolt_ray.core.records import Completion, GenerationRequest
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.engine import VLLMEngine
from bolt_ray.engines.weight_buckets import pack_buckets
from bolt_ray.tasks.tiny.model import create_model, save_model
from bolt_ray.tasks.tiny.settings import TinyModelSettings

CONTEXT = 64
TOLERANCE = 1e-3
SHARP = 5.0
"""Factor on an output head of its own: the two likeliest tokens are then no tie that rounding could break, and sampling
still has several to choose from."""
PROMPT = [5, 6, 7, 8, 9, 10]
KINDS = {
    "tied": TinyModelSettings(size="tiny", tie_embeddings=True),
    "untied": TinyModelSettings(size="tiny", tie_embeddings=False),
    "experts": TinyModelSettings(size="tiny", num_experts=4, active_experts=2),
}


def request_of(request_id: int, *, prompt: list[int] = PROMPT, seed: int | None = None) -> GenerationRequest:
    return GenerationRequest(
        request_id=request_id,
        kind="train",
        token_ids=np.array(prompt, dtype=np.int32),
        seed=request_id if seed is None else seed,
    )


def finish(engine: VLLMEngine) -> list[Completion]:
    done = []
    while engine.num_unfinished:
        done += engine.step()
    return done


def generate(
    engine: VLLMEngine, requests: list[GenerationRequest], sampling: SamplingSettings | None = None
) -> list[Completion]:
    engine.add(requests, sampling)
    return sorted(finish(engine), key=lambda completion: completion.request_id)


def tokens(completion: Completion) -> list[int]:
    """Of a request of ``PROMPT``."""
    return [*PROMPT, *completion.token_ids.tolist()]


def logprobs(model: Any, tokens: list[int]) -> NDArray[np.float32]:
    """Transformers' log p of every token from the second on."""
    ids = torch.tensor([tokens])
    with torch.no_grad():
        logits = model(input_ids=ids).logits.float()
    picked = logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return np.asarray(picked.numpy())


def gap(model: Any, completion: Completion, *, start: int = 0, stop: int | None = None) -> float:
    """max |Δ log p| between a completion's own log-probs and Transformers'."""
    theirs = logprobs(model, tokens(completion))[-len(completion.token_ids) :]
    return float(np.abs(theirs - completion.logprobs)[start:stop].max(initial=0.0))


def perturb(model: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def checkpoint(model: Any) -> dict[str, torch.Tensor]:
    """The state dict under the names of a checkpoint, which are not those of the modules for experts."""
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, dict(model.state_dict())))


@dataclass
class Served:
    """An engine and the Transformers model whose weights it has."""

    kind: str
    engine: VLLMEngine
    model: Any
    tokenizer: Any
    directory: Path

    def sync(self, seed: int) -> None:
        """New weights in the model and in the engine, as its next policy version."""
        perturb(self.model, seed)
        version = self.engine.policy_version + 1
        manifest, buckets = pack_buckets(checkpoint(self.model).items(), bucket_bytes=100_000, version=version)
        self.engine.update_weights(manifest, buckets, version)


def serve(kind: str, directory: Path, *, sharpness: float = 1.0, **settings: Any) -> Served:
    model, tokenizer = create_model(KINDS[kind], seed=1)
    perturb(model, seed=0)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(sharpness)
    save_model(model, tokenizer, directory)
    engine = VLLMEngine(
        engine_settings(
            model_dir=str(directory),
            **{"max_model_len": CONTEXT, "max_num_seqs": 16, "kv_cache_bytes": 64 << 20, **settings},
        ),
        sampling=SamplingSettings(max_new_tokens=20),
    )
    return Served(kind, engine, model.eval(), tokenizer, directory)
