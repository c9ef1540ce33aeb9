"""The rewards by name: a new one is one file and one line here; one's own is ``type: file.py:function``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from bolt_ray.core.plugins import load_object
from bolt_ray.rewards.protocol import Reward, RewardClass
from bolt_ray.rewards.settings import RewardSettings

REWARDS: Mapping[str, str] = {
    "arithmetic": "bolt_ray.tasks.arithmetic.reward:ArithmeticReward",
    "reasoning_gym": "bolt_ray.tasks.reasoning_gym.reward:ReasoningGymReward",
    "exact": "bolt_ray.rewards.rules:ExactReward",
    "contains": "bolt_ray.rewards.rules:ContainsReward",
    "regex": "bolt_ray.rewards.rules:RegexReward",
    "format": "bolt_ray.rewards.format:FormatReward",
    "length": "bolt_ray.rewards.length:LengthReward",
    "overlong": "bolt_ray.rewards.length:OverlongReward",
    "math": "bolt_ray.rewards.mathematics:MathReward",
    "code": "bolt_ray.rewards.program:CodeReward",
    "function": "bolt_ray.rewards.function:FunctionReward",
    "callable": "bolt_ray.rewards.function:CallableReward",
    "reward_model": "bolt_ray.rewards.reward_model:RewardModelReward",
    "http": "bolt_ray.rewards.endpoint:HttpReward",
    "llm_judge": "bolt_ray.rewards.judge:LlmJudgeReward",
}
"""Names, and where the class is: a `RewardClass`, made from the settings record it names."""


def reward_class(name: str) -> RewardClass:
    """The class of a built-in reward; its module is imported now, what that needs only when it is built."""
    return cast("RewardClass", load_object(REWARDS[name]))


def build_reward(settings: RewardSettings) -> Reward:
    """The reward of these settings, ready to score.

    Raises:
        ValueError: it cannot be built; says why.
    """
    return reward_class(settings.type)(settings)
