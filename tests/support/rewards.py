"""Rewards by the names of their types and settings."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from bolt_ray.config.rewards import Reward as Entry
from bolt_ray.rewards.protocol import Reward
from bolt_ray.rewards.registry import build_reward
from bolt_ray.rewards.settings import RewardSettings, definite_rewards


def reward_spec(
    *, type: str, options: dict[str, Any] | None = None, timeout_s: float = 10.0, memory_mb: int = 4096, **common: Any
) -> RewardSettings:
    """``reward_spec(name="right", type="exact", weight=2.0, options={"ignore_case": True})``, definite."""
    entry = TypeAdapter(Entry).validate_python({"type": type, **common, **(options or {})})
    (definite,) = definite_rewards([entry], timeout_s=timeout_s, memory_mb=memory_mb)
    return definite


def make_reward(type: str, **options: Any) -> Reward:
    """``make_reward("exact", ignore_case=True)``, ready to score."""
    return build_reward(TypeAdapter(Entry).validate_python({"type": type, **options}))
