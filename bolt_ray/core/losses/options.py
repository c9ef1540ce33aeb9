"""Settings of the policy loss (``loss:``), and which requests make no sense."""

from __future__ import annotations

from dataclasses import dataclass

from bolt_ray.core.losses.registry import AGGREGATIONS, LOSSES, loss_type
from bolt_ray.core.settings import SettingError, Settings, require_choice, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class LossOptions(Settings):
    """``loss:`` - the policy loss and its numbers.

    Raises:
        SettingError: an unknown type or an impossible combination (a ValueError).
    """

    type: str = setting(
        "dapo", "the policy loss, or file.py:function for one of your own", choices=lambda: list(LOSSES)
    )
    aggregation: str | None = setting(
        None, "how tokens are added up; default: the loss type's own", choices=lambda: list(AGGREGATIONS)
    )
    clip_low: float | None = setting(
        None, "the ratio is clipped from below at 1 - clip_low; default: the loss type's own", ge=0, lt=1
    )
    clip_high: float | None = setting(
        None, "the ratio is clipped from above at 1 + clip_high; default: the loss type's own", gt=0
    )
    max_completion_tokens: int | None = setting(
        None,
        "constant length that aggregation fixed_length (dr_grpo) divides by; default: sampling.max_new_tokens",
        unit="tokens",
        ge=1,
    )
    cispo_max: float = setting(5.0, "cispo: cap of the weight, an absolute ratio", gt=0)
    sapo_tau_positive: float = setting(1.0, "sapo: temperature of the gate where the advantage is above 0", gt=0)
    sapo_tau_negative: float = setting(1.05, "sapo: temperature of the gate elsewhere", gt=0)
    delta: float | None = setting(
        None, "two-sided clipping: cap of the ratio in the unclipped branch, above 1 + clip_high", gt=0
    )
    dual_clip: float | None = setting(
        None, "c, bounds the loss of a negative advantage A by -c*A (arXiv 1912.09729); above 1 + clip_high", gt=0
    )
    mask_truncated: bool = setting(False, "leave completions cut at the length limit out of the loss")
    entropy_coef: float = setting(0.0, "weight of the entropy bonus; 0: none")
    top_entropy_fraction: float = setting(
        1.0, "train only this share of tokens, those of the highest entropy (arXiv 2506.01939)", gt=0, le=1
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        own = loss_type(self.type)
        if self.aggregation is not None:
            require_choice("aggregation", self.aggregation, AGGREGATIONS)
        if self.type == "gspo" and self.resolved_aggregation != "sequence_mean":
            raise SettingError(
                "aggregation",
                f"{self.aggregation!r} would weight gspo's one ratio per sequence by the sequence's length; "
                "leave it out or set it to 'sequence_mean'",
            )
        low, high = self.clip_range
        if low > high:
            raise SettingError("clip_low", f"{low} exceeds clip_high {high}: the range is out of order, swap them")
        for name, value in (("delta", self.delta), ("dual_clip", self.dual_clip)):
            if value is not None and not own.clips:
                clipped = ", ".join(name for name, loss in LOSSES.items() if loss.clips)
                raise SettingError(name, f"has no meaning for {self.type}; it belongs to {clipped}")
            if value is not None and value <= 1.0 + high:
                raise SettingError(name, f"must be above 1 + clip_high = {1.0 + high:g}, not {value}")

    @property
    def clip_range(self) -> tuple[float, float]:
        """(clip_low, clip_high), the type's own where none is given."""
        own = loss_type(self.type)
        return (
            own.clip_low if self.clip_low is None else self.clip_low,
            own.clip_high if self.clip_high is None else self.clip_high,
        )

    @property
    def resolved_aggregation(self) -> str:
        return self.aggregation or loss_type(self.type).aggregation
