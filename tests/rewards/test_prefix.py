"""The reward for how a completion begins."""

from __future__ import annotations

from bolt_ray.rewards.prefix import PrefixReward, PrefixSettings
from bolt_ray.rewards.protocol import RewardInput


def test_it_is_one_for_the_wanted_beginning() -> None:
    reward = PrefixReward(PrefixSettings(type="prefix", text="So:"))
    texts = ["So: 4", "  So: 4", "4. So: 4", ""]
    inputs = [RewardInput(prompt="2+2=", completion=text, answer="4", metadata={}) for text in texts]
    assert reward.score(inputs) == [1.0, 1.0, 0.0, 0.0]
