"""Reward functions, and the processes they are shut up in.

A reward of your own needs nothing but :class:`RewardInput`; see ``configs/rewards/example_reward.py``.
"""

from bolt_ray.rewards.protocol import Reward, RewardInput, Unscored

__all__ = ["Reward", "RewardInput", "Unscored"]
