"""How the baseline updates and forgets, and the prior of an unseen prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from bolt_ray.core.baseline.evidence import Forgetting, KLSource, Prior

_MEAN_PRIOR_STRENGTH = 2.0

V_HAT_UNITS = 2.0**36
"""v̂ is summed in units of 2⁻³⁶, so that its mean is exact: the same in any order and any number of shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSettings:
    """How the baseline updates and forgets.

    Attributes:
        rho_min: decay per policy version under ``event``; strongest decay of a visit under ``kl``.
        rho_max: decay per visit under ``constant``; weakest decay of a visit under ``kl``.
        d_half: drift of the policy, in mean token |Δ log π|, that halves old evidence under ``kl``.
        forgetting: ``event``, ``kl`` or ``constant``.
        kl_source: ``drift``: the ``drift`` of each commit is the policy's movement in that step; it is
            summed, and D is what was added since the prompt was last visited. ``batch``: the number given is
            D itself.
        prior: (α, β) of an unseen prompt, or ``mean``: 2 outcomes at the mean v̂ of the tracked prompts.
        epsilon: added to the sampling weight, keeps every prompt's above 0.
        reward_range: (lo, hi) that raw rewards are scaled from to [0, 1].

    Raises:
        ValueError: a value is out of its range.
    """

    rho_min: float = 0.875
    rho_max: float = 0.96
    d_half: float = 0.5
    forgetting: Forgetting = "event"
    kl_source: KLSource = "drift"
    prior: tuple[float, float] | Literal["mean"] = (1.0, 1.0)
    epsilon: float = 0.05
    reward_range: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not (0.0 < self.rho_min <= self.rho_max <= 1.0 and self.rho_min < 1.0):
            raise ValueError(f"rho_min {self.rho_min}, rho_max {self.rho_max}: need 0 < rho_min <= rho_max <= 1")
        if not (math.isfinite(self.d_half) and self.d_half > 0):
            raise ValueError(f"d_half is {self.d_half}; it must be above 0")
        if self.forgetting not in ("event", "kl", "constant"):
            raise ValueError(f'forgetting is {self.forgetting!r}; choose "event", "kl" or "constant"')
        if self.kl_source not in ("drift", "batch"):
            raise ValueError(f'kl_source is {self.kl_source!r}; choose "drift" or "batch"')
        if self.prior != "mean":
            alpha, beta = self.prior
            if not (min(alpha, beta) >= 0 and 0 < alpha + beta < math.inf):
                raise ValueError(f"prior is {self.prior}; (α, β) may not be negative, nor both 0")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ValueError(f"epsilon is {self.epsilon}; it may not be negative")
        low, high = self.reward_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"reward_range is {self.reward_range}; need lo < hi")

    @property
    def warm_start_strength(self) -> float:
        """N₀ = 1/(1 - rho_min): how many outcomes a warm start is worth."""
        return 1.0 / (1.0 - self.rho_min)

    @property
    def meaning(self) -> dict[str, Any]:
        """What a stored number depends on: a snapshot with another meaning is refused."""
        return {
            "forgetting": self.forgetting,
            "reward_range": list(self.reward_range),
            "prior": "mean" if self.prior == "mean" else "fixed",
        }


def prior_of(settings: BaselineSettings, tracked: int, v_hat_units: int) -> Prior:
    """The prior of a store with ``tracked`` prompts whose v̂ sum to ``v_hat_units`` whole units."""
    if settings.prior != "mean":
        return Prior(alpha=settings.prior[0], beta=settings.prior[1])
    mean = v_hat_units / V_HAT_UNITS / tracked if tracked else 0.5
    return Prior(alpha=_MEAN_PRIOR_STRENGTH * mean, beta=_MEAN_PRIOR_STRENGTH * (1.0 - mean))
