"""A stand-in for the trainer that Unsloth puts in place of TRL's, of the same shape, for machines without a GPU.

Unsloth writes TRL's source out anew: ``_UnslothGRPOTrainer`` is its class with some methods replaced, among them
``compute_loss``, which calls a fused loss and hands no log-probs out; ``_get_per_token_logps_and_entropies`` gives
None for them inside the loss; ``UnslothGRPOTrainer`` and ``UnslothGRPOConfig`` derive from these with an ``__init__``
of their own, and ``_generate_and_score_completions`` is wrapped from outside.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from trl import GRPOConfig
from trl.trainer import grpo_trainer


def _rewritten_source() -> Any:
    source = inspect.getsource(grpo_trainer.GRPOTrainer)
    source = source.replace("class GRPOTrainer(", "class _UnslothGRPOTrainer(", 1)
    namespace = dict(vars(grpo_trainer))
    exec(compile(source, "unsloth_compiled_cache/UnslothGRPOTrainer.py", "exec"), namespace)
    return namespace["_UnslothGRPOTrainer"]


_UnslothGRPOTrainer = _rewritten_source()


def _get_per_token_logps_and_entropies(
    self: Any,
    model: Any,
    input_ids: Any,
    attention_mask: Any,
    logits_to_keep: int,
    batch_size: int | None = None,
    compute_entropy: bool = False,
    compute_efficient: bool = False,
    *args: Any,
    **kwargs: Any,
) -> Any:
    if compute_efficient:
        return None, None
    with torch.no_grad():
        logits = model(input_ids=input_ids, attention_mask=attention_mask).logits
    logps = logits[:, :-1].log_softmax(-1).gather(2, input_ids[:, 1:].unsqueeze(2)).squeeze(2)
    return logps[:, -logits_to_keep:].detach(), None, None


def compute_loss(
    self: Any, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
) -> Any:
    assert self._get_per_token_logps_and_entropies(model, None, None, 0, compute_efficient=True)[0] is None
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    keep = inputs["completion_ids"].shape[1]
    logps = logits.log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)[:, -keep:]
    loss = -(torch.exp(logps - logps.detach()) * inputs["advantages"].unsqueeze(1))
    if self.beta != 0.0:
        away = inputs["ref_per_token_logps"] - logps
        loss = loss + self.beta * (away.exp() - away - 1)
    active = inputs["completion_mask"]
    self._metrics["train"]["completion_length"].append(float(active.sum(1).float().mean()))
    return (loss * active).sum() / active.sum()


_UnslothGRPOTrainer._get_per_token_logps_and_entropies = _get_per_token_logps_and_entropies
_UnslothGRPOTrainer.compute_loss = compute_loss


@dataclass
class UnslothGRPOConfig(GRPOConfig):  # type: ignore[misc]
    unsloth_num_chunks: int | None = field(default=-1)

    def __init__(self, output_dir: Any = None, unsloth_num_chunks: int = -1, **kwargs: Any) -> None:
        super().__init__(output_dir=output_dir, **kwargs)
        self.unsloth_num_chunks = unsloth_num_chunks


class UnslothGRPOTrainer(_UnslothGRPOTrainer):  # type: ignore[misc, valid-type]
    def __init__(
        self,
        model: Any,
        reward_funcs: Any,
        args: Any = None,
        train_dataset: Any = None,
        processing_class: Any = None,
        callbacks: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args if args is not None else UnslothGRPOConfig()
        super().__init__(
            model=model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=train_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **kwargs,
        )
        self.chunks = args.unsloth_num_chunks


_original = UnslothGRPOTrainer._generate_and_score_completions


def _wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
    return _original(self, *args, **kwargs)


UnslothGRPOTrainer._generate_and_score_completions = _wrapped
