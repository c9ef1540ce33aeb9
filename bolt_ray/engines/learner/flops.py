"""How much of the GPUs' arithmetic the learner's updates use: MFU, as in PaLM (arXiv 2204.02311, appendix B)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import TrainingBatch

declare_metrics(
    {
        "perf/mfu": (
            "share",
            "model FLOPs of the updates' forward and backward passes over what the learner's GPUs could compute in its "
            "time for the step (dense bfloat16). Recomputed activations and passes that train nothing (reference, old "
            "log-probs) are no model FLOPs. Left out where the peak is not known: on CPUs, in float32, on other GPUs",
        ),
    }
)

PEAK_FLOPS = (
    ("GB200", 2.5e15),
    ("B200", 2.25e15),
    ("H200", 989e12),
    ("H100 PCIe", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("L40S", 362e12),
    ("L4", 121e12),
    ("A10G", 70e12),
    ("A10", 125e12),
)
"""Part of a device's name, and its dense bfloat16 FLOPs per second by NVIDIA's data sheets; the first that fits."""


def peak_flops(device_name: str) -> float | None:
    """None for a device that is not in the table, and for a part of one (MIG)."""
    words = f"{device_name} ".replace("-", " ")
    return next((peak for name, peak in PEAK_FLOPS if f"{name} " in words and " MIG " not in words), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFlops:
    """FLOPs of one forward and backward pass.

    Each parameter that multiplies a token costs 2 FLOPs forward and 4 backward, or 2 where it is not trained (LoRA):
    its own gradient is not computed.

    Attributes:
        body: per token, of all layers but embeddings and output.
        head: per token that is predicted, of the output layer.
        attention: per token and token of its sequence: 12 · layers · heads · head size.
    """

    body: float
    head: float
    attention: float

    @classmethod
    def of(cls, model: Any) -> TrainingFlops:
        """Of a causal language model of Transformers, an adapter of PEFT around it included."""
        text = model.config.get_text_config()
        embedding = model.get_input_embeddings().weight
        used = _used_experts(text)
        body = 0.0
        for name, parameter in model.named_parameters():
            body += _cost(parameter) * (used if ".experts." in name else 1.0)
        # Looking a token up costs nothing. The output layer has the embedding's size; tied, it is the embedding.
        head = _cost(embedding)
        body -= head if text.tie_word_embeddings else 2 * head
        heads = getattr(text, "num_attention_heads", None) or 0
        head_size = getattr(text, "head_dim", None) or text.hidden_size // max(1, heads)
        return cls(body=body, head=head, attention=12.0 * text.num_hidden_layers * heads * head_size)

    def of_sequences(self, lengths: NDArray[np.integer], completion_lengths: NDArray[np.integer]) -> float:
        """Of one pass over sequences: int [n] tokens of each, and of these in the completion."""
        tokens, squares = float(lengths.sum()), float((lengths.astype(np.float64) ** 2).sum())
        return self.body * tokens + self.head * float(completion_lengths.sum()) + self.attention * squares


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilization:
    """``perf/mfu`` of a learner's steps.

    Attributes:
        flops: of what is trained.
        peak: FLOPs per second of all ranks together; None where that is not known.
    """

    flops: TrainingFlops
    peak: float | None

    @classmethod
    def of(cls, model: Any, *, device: torch.device, dtype: torch.dtype, ranks: int) -> Utilization:
        """Of a model trained on ``ranks`` devices like this one."""
        known = device.type == "cuda" and dtype == torch.bfloat16
        peak = peak_flops(torch.cuda.get_device_name(device)) if known else None
        return cls(flops=TrainingFlops.of(model), peak=None if peak is None else peak * ranks)

    def metrics(
        self, batch: TrainingBatch, trained: Sequence[NDArray[np.int64]], *, seconds: float
    ) -> dict[str, float]:
        """Of a step of ``seconds``; ``trained``: which sequences each of its updates went over."""
        if self.peak is None or not trained:
            return {}
        passes = np.concatenate(trained)
        done = self.flops.of_sequences(batch.lengths[passes], batch.completion_lengths[passes])
        return {"perf/mfu": done / (seconds * self.peak)}


def _cost(parameter: Any) -> float:
    """Of the whole parameter, of which ZeRO 3 may hold a part here."""
    return (6.0 if parameter.requires_grad else 4.0) * int(getattr(parameter, "ds_numel", parameter.numel()))


def _used_experts(text: Any) -> float:
    """The share of a layer's experts that a token goes through; 1 without experts."""
    chosen = getattr(text, "num_experts_per_tok", None)
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    known = next((value for name in names if (value := getattr(text, name, None))), None)
    return chosen / known if chosen and known else 1.0
