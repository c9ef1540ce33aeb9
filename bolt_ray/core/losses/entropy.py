"""Training only the high-entropy tokens (arXiv 2506.01939)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy_threshold(entropy: Tensor, fraction: float) -> float:
    """The entropy that the top ``fraction`` of tokens reach: the (1 − fraction) quantile, interpolated.

    Compute it over the whole optimizer-step batch: a threshold per micro-batch would make the loss depend on
    how the batch was cut.

    Args:
        entropy: float [T] of active tokens; must not be empty.
        fraction: in (0, 1].

    Raises:
        ValueError: no token, or a fraction outside (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"the fraction of tokens to keep must be in (0, 1], got {fraction}")
    if entropy.numel() == 0:
        raise ValueError("no active token to take an entropy threshold from")
    # Sorted by hand: torch.quantile refuses more than 16 million values.
    ordered = torch.sort(entropy.detach().flatten()).values
    position = (1.0 - fraction) * (ordered.numel() - 1)
    lower = math.floor(position)
    upper = min(lower + 1, ordered.numel() - 1)
    low, high = float(ordered[lower]), float(ordered[upper])
    return low + (position - lower) * (high - low)


def top_entropy_mask(entropy: Tensor, mask: Tensor, threshold: float) -> Tensor:
    """Bool tensor of the shape of ``mask``: active tokens whose entropy reaches ``threshold``."""
    return mask.bool() & (entropy.detach() >= threshold)
