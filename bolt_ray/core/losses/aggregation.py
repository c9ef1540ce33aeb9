"""How token losses become one number, the same number however the batch is cut.

The loss of an optimizer step is a sum over tokens with fixed weights, ℓ = Σ_t w_t ℓ_t. The weights depend on
counts of the *whole* step batch (N active tokens, B active sequences), never on how it was cut into ranks and
micro-batches. Data-parallel training averages gradients over W ranks and over G accumulation steps, so each
micro-batch's sum is multiplied by W·G to undo it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Denominators:
    """Counts over the whole optimizer-step batch, the same on every rank and in every micro-batch.

    Attributes:
        active_tokens: N, tokens with a true mask.
        active_sequences: B, sequences with at least one such token.
        scale: W·G, data-parallel ranks times gradient-accumulation steps.
        selected_tokens: tokens of the top-entropy mask; needed only with that mask and an entropy bonus.
    """

    active_tokens: float
    active_sequences: float
    scale: float = 1.0
    selected_tokens: float | None = None


def token_weights(
    aggregation: str,
    *,
    sequence_ids: Tensor,
    lengths: Tensor,
    denominators: Denominators,
    max_completion_tokens: int | None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The weight of every token.

    - ``sequence_mean``: 1 / (B·L_i), every sequence counts alike (GRPO).
    - ``token_mean``: 1 / N, every token counts alike (DAPO).
    - ``local_token_mean``: the same, given the counts of the micro-batch alone (BNPO). It depends on how the
      batch is cut, by definition.
    - ``fixed_length``: 1 / (B·max_completion_tokens) (Dr. GRPO, arXiv 2503.20783).

    A sequence must lie in one micro-batch as a whole: L_i is counted here.

    Raises:
        ValueError: ``fixed_length`` without ``max_completion_tokens``.

    Args:
        sequence_ids: int64 [T], active tokens only.
        lengths: int64 [num_sequences], active tokens of each sequence in this micro-batch.

    Returns:
        weights [T] of ``dtype``, without ``denominators.scale``.
    """
    counts = lengths.to(dtype)[sequence_ids]
    tokens = max(denominators.active_tokens, 1.0)
    sequences = max(denominators.active_sequences, 1.0)
    if aggregation == "sequence_mean":
        return 1.0 / (counts * sequences)
    if aggregation == "fixed_length":
        if max_completion_tokens is None:
            raise ValueError("aggregation fixed_length (dr_grpo) needs max_completion_tokens")
        return torch.full_like(counts, 1.0 / (sequences * max_completion_tokens))
    assert aggregation in ("token_mean", "local_token_mean")
    return torch.full_like(counts, 1.0 / tokens)
