"""The reward types with their classes, and a reward as plain values that can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

IMPLEMENTATIONS: Mapping[str, str] = {
    "arithmetic": "bolt_ray.tasks.arithmetic.reward:ArithmeticReward",
    "exact": "bolt_ray.rewards.rules:ExactReward",
    "contains": "bolt_ray.rewards.rules:ContainsReward",
    "regex": "bolt_ray.rewards.rules:RegexReward",
    "format": "bolt_ray.rewards.format:FormatReward",
    "length": "bolt_ray.rewards.length:LengthReward",
    "overlong": "bolt_ray.rewards.length:OverlongReward",
    "math": "bolt_ray.rewards.mathematics:MathReward",
    "code": "bolt_ray.rewards.program:CodeReward",
    "function": "bolt_ray.rewards.function:FunctionReward",
    "reward_model": "bolt_ray.rewards.reward_model:RewardModelReward",
    "http": "bolt_ray.rewards.endpoint:HttpReward",
    "llm_judge": "bolt_ray.rewards.judge:LlmJudgeReward",
}

SHARED_PROCESS = frozenset({"arithmetic", "exact", "contains", "regex", "format", "length", "overlong"})
"""Types that start fast and share one process. Every other reward gets its own, so that a crash in a user's function
does not force a reward model to be loaded again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSpec:
    """One reward of a run.

    Attributes:
        name: its name in ``parts``, in metrics and in reasons; unique in the run.
        type: a key of ``IMPLEMENTATIONS``.
        weight: factor of its value in the sum.
        shaping: True: counts for the advantage's reward, not for the baseline tracker's.
        timeout_s: wall-clock limit of one call.
        memory_mb: limit on the process's private memory.
        options: keyword arguments of the class.
    """

    name: str
    type: str
    weight: float = 1.0
    shaping: bool = False
    timeout_s: float = 10.0
    memory_mb: int = 4096
    options: Mapping[str, Any] = field(default_factory=dict)
