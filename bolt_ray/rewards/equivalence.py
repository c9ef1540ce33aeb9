"""Whether two answers are mathematically equal, asked of the ``math`` reward in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bolt_ray.rewards.mathematics import MathSettings
from bolt_ray.rewards.process.isolation import RewardProcess
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.settings import RewardSettings, definite_rewards


class MathEquality:
    """Compares pairs of answers; the process starts with the first question, and an answer that ends it, takes too long
    or cannot be read is equal to none.

    Args:
        reward: the ``math`` reward whose settings (decimals, time limit) count; None for its defaults.
        timeout_s: limit on one comparison.
        memory_mb: private memory of the process.
        startup_timeout_s: limit on its start.
    """

    def __init__(
        self, *, reward: RewardSettings | None, timeout_s: float, memory_mb: int, startup_timeout_s: float
    ) -> None:
        own = reward if isinstance(reward, MathSettings) else MathSettings(type="math")
        own = replace(own, extract="boxed", partial=0.0)
        specs = definite_rewards([own], timeout_s=timeout_s, memory_mb=memory_mb)
        self._process = RewardProcess(rewards=specs, startup_timeout_s=startup_timeout_s)

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """For each pair, whether its answers are equal."""
        inputs = [RewardInput(prompt="", completion=f"\\boxed{{{one}}}", answer=other) for one, other in pairs]
        return [verdict == 1.0 for verdict in self._process.score(0, inputs)]

    def close(self) -> None:
        """End the process, if there is one."""
        self._process.close()
