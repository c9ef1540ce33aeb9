"""Rewards on the completion's length in tokens. By default they shape the advantage, not the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bolt_ray.core.settings import SettingError, setting
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.settings import RewardSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthSettings(RewardSettings):
    """``type: length`` - 1 at ``target_tokens``, falling linearly to 0 at ``tolerance_tokens`` away from it."""

    shares_process = True
    always_within = (0.0, 1.0)

    target_tokens: int = setting(..., "the length that gets 1", unit="tokens", ge=1)
    tolerance_tokens: int = setting(..., "the distance from it that gets 0", unit="tokens", ge=1)
    shaping: bool = setting(True, "counts for the advantage's reward only, not for the baseline")


class LengthReward:
    """max(0, 1 − |L − target| / tolerance), L the completion's tokens."""

    settings = LengthSettings
    batched = False

    def __init__(self, settings: LengthSettings) -> None:
        self._target = settings.target_tokens
        self._tolerance = settings.tolerance_tokens

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [max(0.0, 1.0 - abs(i.num_tokens - self._target) / self._tolerance) for i in inputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlongSettings(RewardSettings):
    """``type: overlong`` - DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13)."""

    shares_process = True
    always_within = (-1.0, 0.0)

    max_tokens: int = setting(..., "longest completion allowed", unit="tokens", ge=1)
    cache_tokens: int = setting(
        ..., "over the last this many tokens before it, the value falls from 0 to -1", unit="tokens", ge=1
    )
    shaping: bool = setting(True, "counts for the advantage's reward only, not for the baseline")

    def __post_init__(self) -> None:
        RewardSettings.__post_init__(self)
        if self.cache_tokens > self.max_tokens:
            raise SettingError("cache_tokens", "must not be above max_tokens")


class OverlongReward:
    """Soft overlong punishment of DAPO (arXiv 2503.14476, eq. 13), L the completion's tokens.

    0                                     L ≤ max − cache
    ((max − cache) − L) / cache           max − cache < L ≤ max
    −1                                    L > max, and a truncated completion
    """

    settings = OverlongSettings
    batched = False

    def __init__(self, settings: OverlongSettings) -> None:
        self._max = settings.max_tokens
        self._cache = settings.cache_tokens

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [self._score_one(item) for item in inputs]

    def _score_one(self, item: RewardInput) -> float:
        if item.truncated or item.num_tokens > self._max:
            return -1.0
        return min(0.0, (self._max - self._cache - item.num_tokens) / self._cache)
