"""Controllers of the KL coefficient β, called once per optimizer step.

A step whose update was skipped must not reach its controller. Every controller has ``beta``, ``update``,
``metrics``, ``state_dict`` and ``load_state_dict``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from bolt_ray.core.kl_options import KLSettings
from bolt_ray.core.metric_names import declare_metrics

declare_metrics(
    {
        "adaptive_kl/current_beta": ("", "β, the coefficient of the KL term from the next step on"),
    }
)


class KLController(Protocol):
    """The interface of a controller."""

    @property
    def beta(self) -> float: ...

    def update(self, *, kl: float, mean_reward: float, num_sequences: int) -> float:
        """Take in one step and return the β of the next.

        Args:
            kl: ``adaptive_kl/raw_kl`` of the step, in its own unit (per token, or per sequence).
            mean_reward: mean raw reward of the step's scored completions.
            num_sequences: active sequences of the step.

        Raises:
            ValueError: a number that is not finite.
        """
        ...

    def metrics(self) -> dict[str, float]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class FixedController:
    """β as it was set; the controller of a run without one."""

    kind = "fixed"

    def __init__(self, settings: KLSettings) -> None:
        self._settings = settings
        self._beta = settings.coef

    @property
    def beta(self) -> float:
        return self._beta

    def update(self, *, kl: float, mean_reward: float, num_sequences: int) -> float:
        return self._beta

    def metrics(self) -> dict[str, float]:
        return {"adaptive_kl/current_beta": self._beta}

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "beta": self._beta}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore β.

        Raises:
            ValueError: the state of another kind of controller, or a β that is no coefficient.
        """
        if state.get("kind") != self.kind:
            raise ValueError(
                f"the saved KL controller is {state.get('kind')!r}, this run's is {self.kind!r}; "
                "resume with the controller the run was started with"
            )
        beta = float(state["beta"])
        if not 0.0 <= beta < math.inf:
            raise ValueError(f"the saved KL coefficient is {beta}; the checkpoint is damaged")
        self._beta = beta


class DynamicController(FixedController):
    """Lower β while rewards are high, end at ``beta_min`` after ``beta_schedule_steps``.

    Once ``window`` rewards are held and their mean is above ``reward_threshold``, every step sets
    β ← max(β·dynamic_beta_decay, beta_min).
    """

    kind = "dynamic"

    def __init__(self, settings: KLSettings) -> None:
        super().__init__(settings)
        self._rewards: deque[float] = deque(maxlen=settings.window)
        self._step = 0

    def update(self, *, kl: float, mean_reward: float, num_sequences: int) -> float:
        _require_finite("mean reward", mean_reward)
        self._step += 1
        self._rewards.append(mean_reward)
        full = len(self._rewards) == self._rewards.maxlen
        if full and math.fsum(self._rewards) / len(self._rewards) > self._settings.reward_threshold:
            self._beta = max(self._beta * self._settings.dynamic_beta_decay, self._settings.beta_min)
        if self._step > self._settings.beta_schedule_steps:
            self._beta = self._settings.beta_min
        return self._beta

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"rewards": list(self._rewards), "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._rewards = deque((float(r) for r in state["rewards"]), maxlen=self._rewards.maxlen)
        self._step = int(state["step"])


class ZieglerController(FixedController):
    """Proportional control to a target KL (arXiv 1909.08593, eq. 3).

    e = clip(KL/target − 1, ±0.2), β ← β·(1 + e·n/horizon), n the sequences of the step.
    """

    kind = "ziegler"

    def update(self, *, kl: float, mean_reward: float, num_sequences: int) -> float:
        _require_finite("KL", kl)
        error = min(max(kl / self._settings.controller_target - 1.0, -0.2), 0.2)
        # Cut at 0: more than 5 horizons of sequences in one step would turn β negative.
        self._beta *= max(1.0 + error * num_sequences / self._settings.horizon, 0.0)
        return self._beta


class PPOPenaltyController(FixedController):
    """Doubling and halving (arXiv 1707.06347, §4): KL > 1.5·target → 2β, KL < target/1.5 → β/2."""

    kind = "ppo_penalty"

    def update(self, *, kl: float, mean_reward: float, num_sequences: int) -> float:
        _require_finite("KL", kl)
        if kl > 1.5 * self._settings.controller_target:
            self._beta *= 2.0
        elif kl < self._settings.controller_target / 1.5:
            self._beta /= 2.0
        return self._beta


_CONTROLLERS: dict[str | None, type[FixedController]] = {
    None: FixedController,
    "dynamic": DynamicController,
    "ziegler": ZieglerController,
    "ppo_penalty": PPOPenaltyController,
}


def kl_controller(settings: KLSettings) -> KLController:
    """The controller that ``kl:`` asks for; β stays fixed where it asks for none."""
    return _CONTROLLERS[settings.controller](settings)


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"the {name} of a step must be finite, got {value}; skip the update of a failed step")
