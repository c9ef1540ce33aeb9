"""Controllers of the KL coefficient β, called once per optimizer step.

A step whose update was skipped must not reach its controller. Every controller has ``beta``, ``update``,
``metrics``, ``state_dict`` and ``load_state_dict``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol


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

    def __init__(self, beta: float) -> None:
        if not 0.0 <= beta < math.inf:
            raise ValueError(f"kl.coef must be 0 or more, got {beta}")
        self._beta = beta

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


class _Adaptive(FixedController):
    """A controller that multiplies β, and so needs one above 0."""

    def __init__(self, beta: float) -> None:
        super().__init__(beta)
        if beta == 0.0:
            raise ValueError(f"the {self.kind} KL controller multiplies β, which is 0; set kl.coef above 0")


class DynamicController(_Adaptive):
    """Lower β while rewards are high, end at ``beta_min`` after ``schedule_steps``.

    Once ``window`` rewards are held and their mean is above ``reward_threshold``, every step sets
    β ← max(β·decay, beta_min).
    """

    kind = "dynamic"

    def __init__(
        self,
        beta: float,
        *,
        window: int = 10,
        reward_threshold: float = 0.8,
        decay: float = 0.9,
        beta_min: float = 0.0,
        schedule_steps: int = 1000,
    ) -> None:
        super().__init__(beta)
        if window < 1 or schedule_steps < 1:
            raise ValueError(f"window and schedule_steps must be at least 1, got {window} and {schedule_steps}")
        if not 0.0 < decay <= 1.0:
            raise ValueError(f"dynamic_beta_decay must be in (0, 1], got {decay}")
        if not 0.0 <= beta_min <= beta:
            raise ValueError(f"beta_min must lie between 0 and kl.coef {beta}, got {beta_min}")
        if not math.isfinite(reward_threshold):
            raise ValueError(f"reward_threshold must be a finite number, got {reward_threshold}")
        self._reward_threshold = reward_threshold
        self._decay = decay
        self._beta_min = beta_min
        self._schedule_steps = schedule_steps
        self._rewards: deque[float] = deque(maxlen=window)
        self._step = 0

    def update(self, *, kl: float, mean_reward: float, num_sequences: int) -> float:
        _require_finite("mean reward", mean_reward)
        self._step += 1
        self._rewards.append(mean_reward)
        full = len(self._rewards) == self._rewards.maxlen
        if full and math.fsum(self._rewards) / len(self._rewards) > self._reward_threshold:
            self._beta = max(self._beta * self._decay, self._beta_min)
        if self._step > self._schedule_steps:
            self._beta = self._beta_min
        return self._beta

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"rewards": list(self._rewards), "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._rewards = deque((float(r) for r in state["rewards"]), maxlen=self._rewards.maxlen)
        self._step = int(state["step"])


class ZieglerController(_Adaptive):
    """Proportional control to a target KL (arXiv 1909.08593, eq. 3).

    e = clip(KL/target − 1, ±0.2), β ← β·(1 + e·n/horizon), n the sequences of the step.
    """

    kind = "ziegler"

    def __init__(self, beta: float, *, target: float, horizon: float = 10_000.0) -> None:
        super().__init__(beta)
        _require_positive("target", target)
        _require_positive("horizon", horizon)
        self._target = target
        self._horizon = horizon

    def update(self, *, kl: float, mean_reward: float, num_sequences: int) -> float:
        _require_finite("KL", kl)
        error = min(max(kl / self._target - 1.0, -0.2), 0.2)
        # Cut at 0: more than 5 horizons of sequences in one step would turn β negative.
        self._beta *= max(1.0 + error * num_sequences / self._horizon, 0.0)
        return self._beta


class PPOPenaltyController(_Adaptive):
    """Doubling and halving (arXiv 1707.06347, §4): KL > 1.5·target → 2β, KL < target/1.5 → β/2."""

    kind = "ppo_penalty"

    def __init__(self, beta: float, *, target: float) -> None:
        super().__init__(beta)
        _require_positive("target", target)
        self._target = target

    def update(self, *, kl: float, mean_reward: float, num_sequences: int) -> float:
        _require_finite("KL", kl)
        if kl > 1.5 * self._target:
            self._beta *= 2.0
        elif kl < self._target / 1.5:
            self._beta /= 2.0
        return self._beta


CONTROLLERS = ("dynamic", "ziegler", "ppo_penalty")


def make_kl_controller(kind: str | None, beta: float, **parameters: Any) -> KLController:
    """A controller by name; ``None`` keeps β fixed.

    Raises:
        ValueError: unknown name, β 0 with a controller, or a parameter out of range.
        TypeError: a parameter that this controller does not have.
    """
    if kind is None:
        return FixedController(beta, **parameters)
    if kind == "dynamic":
        return DynamicController(beta, **parameters)
    if kind == "ziegler":
        return ZieglerController(beta, **parameters)
    if kind == "ppo_penalty":
        return PPOPenaltyController(beta, **parameters)
    raise ValueError(f"unknown KL controller {kind!r}; choose one of {', '.join(CONTROLLERS)}")


def _require_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"the {name} of a step must be finite, got {value}; skip the update of a failed step")


def _require_positive(name: str, value: float) -> None:
    if not 0.0 < value < math.inf:
        raise ValueError(f"the KL controller's {name} must be a positive number, got {value}")
