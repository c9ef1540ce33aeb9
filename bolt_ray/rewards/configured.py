"""From the configuration's rewards to plain :class:`RewardSpec` values."""

from __future__ import annotations

from collections.abc import Sequence

from bolt_ray.config.rewards import FunctionReward, RewardSection, reward_names
from bolt_ray.core.errors import ConfigError
from bolt_ray.rewards.registry import RewardSpec


def specs_of(
    rewards: Sequence[RewardSection], *, timeout_s: float, memory_mb: int, base_dir: str
) -> tuple[RewardSpec, ...]:
    """The configured rewards as plain values.

    Args:
        rewards: the entries of ``rewards:``.
        timeout_s, memory_mb: limits of those that have none of their own.
        base_dir: where the relative path of a user's file is looked for.

    Raises:
        ConfigError: two rewards have one name.
    """
    try:
        names = reward_names(rewards)
    except ValueError as problem:
        raise ConfigError(str(problem)) from problem
    specs = []
    for name, reward in zip(names, rewards, strict=True):
        options = reward.arguments()
        if isinstance(reward, FunctionReward):
            options["base_dirs"] = [base_dir]
        specs.append(
            RewardSpec(
                name=name,
                type=reward.model_dump(include={"type"})["type"],
                weight=reward.weight,
                shaping=reward.shaping,
                timeout_s=reward.timeout_s or timeout_s,
                memory_mb=reward.memory_mb or memory_mb,
                options=options,
            )
        )
    return tuple(specs)
