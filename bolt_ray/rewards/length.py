"""Rewards on the completion's length in tokens. By default they shape the advantage, not the baseline."""

from __future__ import annotations

from collections.abc import Sequence

from bolt_ray.rewards.protocol import RewardInput


class LengthReward:
    """max(0, 1 − |L − target| / tolerance), L the completion's tokens.

    Args:
        target_tokens: the length that gets 1.
        tolerance_tokens: the distance from it that gets 0.
    """

    batched = False

    def __init__(self, *, target_tokens: int, tolerance_tokens: int) -> None:
        self._target = target_tokens
        self._tolerance = tolerance_tokens

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [max(0.0, 1.0 - abs(i.num_tokens - self._target) / self._tolerance) for i in inputs]


class OverlongReward:
    """Soft overlong punishment of DAPO (2503.14476, eq. 13), L the completion's tokens.

        0                                     L ≤ max − cache
        ((max − cache) − L) / cache           max − cache < L ≤ max
        −1                                    L > max, and a truncated completion

    Args:
        max_tokens: longest completion allowed.
        cache_tokens: width of the slope below it.
    """

    batched = False

    def __init__(self, *, max_tokens: int, cache_tokens: int) -> None:
        self._max = max_tokens
        self._cache = cache_tokens

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [self._score_one(item) for item in inputs]

    def _score_one(self, item: RewardInput) -> float:
        if item.truncated or item.num_tokens > self._max:
            return -1.0
        return min(0.0, (self._max - self._cache - item.num_tokens) / self._cache)
