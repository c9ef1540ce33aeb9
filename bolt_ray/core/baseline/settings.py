"""How the baseline updates and forgets, and the prior of an unseen prompt."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from bolt_ray.core.baseline.evidence import Forgetting, KLSource, Prior
from bolt_ray.core.settings import SettingError, Settings, setting

_MEAN_PRIOR_STRENGTH = 2.0

V_HAT_UNITS = 2.0**36
"""v̂ is summed in units of 2⁻³⁶, so that its mean is exact: the same in any order and any number of shards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSettings(Settings):
    """How the baseline updates and forgets.

    Raises:
        SettingError: a value is out of its range (a ValueError).
    """

    forgetting: Forgetting = setting(
        "event",
        "how old outcomes lose weight: event: rho_min per policy version (SPO++); kl: per visit, by the policy's drift "
        "since (SPO, BOLT); constant: rho_max per visit",
    )
    kl_source: KLSource = setting(
        "drift",
        "kl: drift: the policy's movement since the prompt was last visited; batch: one number for the whole batch",
    )
    rho_min: float = setting(
        0.875, "decay per policy version under event; strongest decay of a visit under kl", gt=0, lt=1
    )
    rho_max: float = setting(0.96, "decay per visit under constant; weakest decay of a visit under kl", gt=0, le=1)
    d_half: float = setting(
        0.5, "kl: drift of the policy that halves old evidence", unit="nats (mean token |Δ log π|)", gt=0
    )
    prior: tuple[float, float] | Literal["mean"] = setting(
        (1.0, 1.0), "(α, β) of an unseen prompt, or mean: 2 outcomes at the mean v̂ of the tracked prompts"
    )
    reward_range: tuple[float, float] = setting(
        (0.0, 1.0), "[low, high] that rewards are scaled from to [0, 1]; what lies outside is cut"
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.rho_min > self.rho_max:
            raise SettingError("rho_min", f"{self.rho_min} is above rho_max {self.rho_max}")
        if self.prior != "mean":
            alpha, beta = self.prior
            if not (min(alpha, beta) >= 0 and 0 < alpha + beta < math.inf):
                raise SettingError("prior", f"is {list(self.prior)}; (α, β) may not be negative, nor both 0")
        low, high = self.reward_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise SettingError("reward_range", f"{list(self.reward_range)} must be [low, high] with low < high")

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
