"""How fast old outcomes lose their weight: the decay factor ρ of BOLT and SPO (arXiv 2509.13232)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Forgetting = Literal["event", "kl", "constant"]
KLSource = Literal["drift", "batch"]


def event_decay(rho: float, elapsed: NDArray[Any]) -> NDArray[np.float64]:
    """ρ^elapsed, float64 [n]: the weight left after ``elapsed`` (int [n], >= 0) policy versions."""
    return np.power(rho, elapsed.astype(np.float64))


def drift_decay(distance: NDArray[np.float64], *, d_half: float, rho_min: float, rho_max: float) -> NDArray[np.float64]:
    """ρ = clip(2^(-D/D_half), rho_min, rho_max), float64 [n].

    Args:
        distance: float64 [n], D >= 0, the policy's drift in mean token |Δ log π|.
        d_half: the drift that halves the weight, before clipping.
        rho_min, rho_max: bounds of one visit's decay.
    """
    return np.clip(np.exp2(-distance / d_half), rho_min, rho_max)
