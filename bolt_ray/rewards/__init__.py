"""Reward functions, and the isolated processes they run in.

A reward of your own needs nothing but :class:`RewardInput`; see ``configs/rewards/example_reward.py``.
"""

from bolt_ray.rewards.protocol import Reward, RewardInput, Unscored

__all__ = ["Reward", "RewardInput", "Unscored"]
