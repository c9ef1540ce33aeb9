"""``type: prefix`` - the completion begins with a given text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bolt_ray.core.settings import setting
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.settings import RewardSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefixSettings(RewardSettings):
    """``type: prefix`` - 1 if the completion begins with ``text``, white space before it aside."""

    shares_process = True

    text: str = setting("Answer:", "how a completion should begin", min_length=1)


class PrefixReward:
    """1.0 if the completion begins with the text, else 0.0."""

    settings = PrefixSettings
    batched = False

    def __init__(self, settings: PrefixSettings) -> None:
        self._text = settings.text

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        return [float(item.completion.lstrip().startswith(self._text)) for item in inputs]
