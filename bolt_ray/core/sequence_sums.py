"""Sums over the sequences of a flat batch.

A *flat* batch holds only the tokens that count, one after another: values [T], and ``sequence_ids`` [T] that
say which of ``num_sequences`` sequences each token belongs to. Padded and packed batches both become flat
batches, so every formula is written once.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_EXPONENT = 20.0
"""Log-ratios are cut here before ``exp``: far beyond it a gradient becomes 0 * inf, NaN."""


def segment_sum(values: Tensor, sequence_ids: Tensor, num_sequences: int) -> Tensor:
    """Sum of each sequence's values: [T] -> [num_sequences]; 0 for a sequence without tokens."""
    return values.new_zeros(num_sequences).index_add(0, sequence_ids, values)


def segment_lengths(sequence_ids: Tensor, num_sequences: int) -> Tensor:
    """Tokens of each sequence: int64 [num_sequences]."""
    return torch.bincount(sequence_ids, minlength=num_sequences)


def segment_mean(values: Tensor, sequence_ids: Tensor, num_sequences: int) -> Tensor:
    """Mean of each sequence's values: [T] -> [num_sequences]; 0 for a sequence without tokens."""
    lengths = segment_lengths(sequence_ids, num_sequences).clamp(min=1)
    return segment_sum(values, sequence_ids, num_sequences) / lengths


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision widened to float32; float32 and float64 as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def require_shape(name: str, values: Tensor, shape: torch.Size | tuple[int, ...]) -> None:
    """Refuse a tensor that would otherwise broadcast silently into a wrong result.

    Raises:
        ValueError: ``values`` is not of ``shape``.
    """
    if tuple(values.shape) != tuple(shape):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected {tuple(shape)}")
