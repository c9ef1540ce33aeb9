"""Settings of the importance correction (``correction:``)."""

from __future__ import annotations

from dataclasses import dataclass

from bolt_ray.core.settings import SettingError, Settings, require_choice, setting

LEVELS = ("token", "sequence", "geometric")
MODES = ("truncate", "mask", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionOptions(Settings):
    """``correction:`` - importance weights for what another policy generated.

    Raises:
        SettingError: an unknown name or a cap that is not positive (a ValueError).
    """

    level: str = setting(
        "token",
        "token: e^Δ of each token; for all tokens of a sequence alike, sequence: e^(ΣΔ), geometric: e^(mean Δ)",
        choices=lambda: list(LEVELS),
    )
    mode: str = setting(
        "truncate",
        "truncate: min(weight, cap); mask: 0 where the weight exceeds cap or falls below floor; none: it is only "
        "measured",
        choices=lambda: list(MODES),
    )
    cap: float = setting(2.0, "C, the largest weight", gt=0)
    floor: float = setting(
        0.0, "mask: the smallest weight; IcePop (arXiv 2510.18855) masks outside 0.5 to 5, at the level of tokens", ge=0
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        require_choice("level", self.level, LEVELS)
        require_choice("mode", self.mode, MODES)
        if self.floor > 0 and self.mode != "mask":
            raise SettingError("floor", f"belongs to mode mask; {self.mode} has none")
        if self.floor >= self.cap:
            raise SettingError("floor", f"{self.floor:g} must be below cap {self.cap:g}")
