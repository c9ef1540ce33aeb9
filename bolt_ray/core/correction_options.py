"""Settings of the importance correction (``correction:``)."""

from __future__ import annotations

from dataclasses import dataclass

from bolt_ray.core.settings import Settings, require_choice, setting

LEVELS = ("token", "sequence")
MODES = ("truncate", "mask", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class CorrectionOptions(Settings):
    """``correction:`` - importance weights for what another policy generated.

    Raises:
        SettingError: an unknown name or a cap that is not positive (a ValueError).
    """

    level: str = setting(
        "token",
        "token: e^Δ of each token; sequence: e^(ΣΔ), the same for all tokens of the sequence",
        choices=lambda: list(LEVELS),
    )
    mode: str = setting(
        "truncate",
        "truncate: min(weight, cap); mask: 0 where the weight exceeds cap; none: the difference is only measured",
        choices=lambda: list(MODES),
    )
    cap: float = setting(2.0, "C, the largest weight", gt=0)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        require_choice("level", self.level, LEVELS)
        require_choice("mode", self.mode, MODES)
