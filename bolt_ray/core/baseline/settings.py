"""How the baseline estimates, updates and forgets (``baseline:``)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from bolt_ray.core.baseline.evidence import Estimator, Forgetting, KLSource
from bolt_ray.core.baseline.level import Level, LevelTracker
from bolt_ray.core.baseline.units import UNITS
from bolt_ray.core.settings import SettingError, Settings, setting

_MEAN_PRIOR_STRENGTH = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSettings(Settings):
    """How the baseline estimates, updates and forgets.

    Raises:
        SettingError: a value is out of its range, or does nothing with the others (a ValueError).
    """

    estimator: Estimator = setting(
        "two_level",
        "two_level: the policy's level now and each prompt's difference from it; beta: a Beta(α, β) per prompt, as "
        "BOLT and SPO are published",
    )
    strength: float | Literal["auto"] = setting(
        "auto",
        "two_level: how many outcomes the level counts for against a prompt's own; auto: what has predicted best",
        unit="outcomes",
    )
    text_level: bool = setting(
        True,
        "two_level: what a prompt would be worth without outcomes of its own is learned from its text, too: from its "
        "length, numbers and pieces, as far as they have predicted outcomes",
    )
    forgetting: Forgetting = setting(
        "kl",
        "how old outcomes lose weight: kl: per visit, by the policy's drift since (SPO, BOLT); constant: rho_max per "
        "visit; event: rho_min per policy version (SPO++; estimator beta only)",
    )
    kl_source: KLSource = setting(
        "drift",
        "kl: drift: the policy's movement since the prompt was last visited; batch: one number for the whole batch",
    )
    rho_min: float = setting(
        0.875, "strongest decay of a visit under kl; decay per policy version under event", gt=0, lt=1
    )
    rho_max: float = setting(0.96, "weakest decay of a visit under kl; decay per visit under constant", gt=0, le=1)
    d_half: float = setting(
        0.5, "kl: drift of the policy that halves old evidence", unit="nats (mean token |Δ log π|)", gt=0
    )
    prior: tuple[float, float] | Literal["mean"] = setting(
        (1.0, 1.0),
        "beta: (α, β) of an unseen prompt, or mean: 2 outcomes at the mean v̂ of the tracked prompts",
    )
    reward_range: tuple[float, float] | None = setting(
        None,
        "[low, high] that rewards are scaled from to [0, 1]; what lies outside is cut, except from advantages against "
        "a group; default: what the rewards can give together",
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.estimator == "two_level" and self.forgetting == "event":
            raise SettingError("forgetting", "event needs estimator: beta; with two_level use kl or constant")
        for name, why in idle_settings(self.estimator, self.forgetting).items():
            if getattr(self, name) != BaselineSettings.__dataclass_fields__[name].default:
                raise SettingError(name, f"does nothing with {why}; leave it out")
        if self.strength != "auto" and self.strength < 0:
            raise SettingError("strength", f"must be auto or at least 0, not {self.strength:g}")
        if self.rho_min > self.rho_max:
            raise SettingError("rho_min", f"{self.rho_min} is above rho_max {self.rho_max}")
        if self.prior != "mean":
            alpha, beta = self.prior
            if not (min(alpha, beta) >= 0 and 0 < alpha + beta < math.inf):
                raise SettingError("prior", f"is {list(self.prior)}; (α, β) may not be negative, nor both 0")
        low, high = self.scaled_from
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise SettingError("reward_range", f"{[low, high]} must be [low, high] with low < high")

    @property
    def scaled_from(self) -> tuple[float, float]:
        """The range of rewards: that given, else of rewards that are right or wrong."""
        return self.reward_range or (0.0, 1.0)

    @property
    def warm_start_strength(self) -> float:
        """N₀ = 1/(1 - rho_min): how many outcomes a warm start is worth."""
        return 1.0 / (1.0 - self.rho_min)

    @property
    def learns_texts(self) -> bool:
        """Whether texts tell the level of a prompt."""
        return self.text_level and self.estimator == "two_level"

    @property
    def fixed_strength(self) -> float | None:
        """The strength given, None for auto."""
        return None if self.strength == "auto" else self.strength

    @property
    def meaning(self) -> dict[str, Any]:
        """What a stored number depends on: a snapshot with another meaning is refused."""
        meaning = {
            "estimator": self.estimator,
            "forgetting": self.forgetting,
            "reward_range": list(self.scaled_from),
        }
        return meaning | {"prior": "mean" if self.prior == "mean" else "fixed"} if self.estimator == "beta" else meaning


def idle_settings(estimator: str, forgetting: str) -> dict[str, str]:
    """Settings that do nothing with an estimator and a forgetting rule, and which of the two is why."""
    own = ("prior",) if estimator == "two_level" else ("strength", "text_level")
    idle = dict.fromkeys(own, f"estimator {estimator}")
    if estimator == "two_level" and forgetting == "event":
        idle["forgetting"] = "estimator two_level"
    if forgetting != "kl":
        idle |= dict.fromkeys(("d_half", "kl_source"), f"forgetting {forgetting}")
    if forgetting == "event":
        idle["rho_max"] = "forgetting event"
    return idle


def level_of(settings: BaselineSettings, tracker: LevelTracker, tracked: int, v_hat_units: int) -> Level:
    """What an unseen prompt is worth: the level tracked, or the prior of estimator ``beta``.

    Args:
        tracker: the level of the store.
        tracked: prompts with evidence.
        v_hat_units: Σ of their v̂ in whole units, which ``prior: mean`` follows.
    """
    if settings.estimator == "two_level":
        return tracker.level()
    if settings.prior != "mean":
        alpha, beta = settings.prior
        mean, strength = alpha / (alpha + beta), alpha + beta
    else:
        mean, strength = v_hat_units / UNITS / tracked if tracked else 0.5, _MEAN_PRIOR_STRENGTH
    return Level(means=(mean,) * len(tracker.sources), strength=strength, unseen_count=strength)
