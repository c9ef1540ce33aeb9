"""The curriculum: one strategy, the modifiers of its weights, and its own random generators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.modifiers import keep_probability, mix_with_uniform, staleness_factor
from bolt_ray.core.curriculum.sampling import window_generator
from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import ScoredDraws
from bolt_ray.core.curriculum.strategies.registry import make_strategy
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.plugins import plain_name
from bolt_ray.core.records import PromptColumns

declare_metrics(
    {
        "curriculum/mean_weight": ("", "mean weight of all prompts at the last refresh of the weights"),
        "curriculum/asked_{i}": (
            "share of the weight",
            "at the last refresh, of the prompts whose v̂ lies in the i-th tenth; compare curriculum/drawn_{i}",
        ),
    }
)


class Curriculum:
    """Weights over all prompts, refreshed once per window of draws.

    Args:
        seed: of the curriculum's own generators, 0 to 2^64 - 1.

    Raises:
        ValueError: The settings name a class that cannot be found.
    """

    def __init__(self, settings: CurriculumSettings, *, seed: int) -> None:
        self.settings = settings
        self.seed = seed
        self._strategy = make_strategy(settings)
        self._mean_weight: float | None = None
        self._asked: list[float] = []

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, window: int, version: int | None = None
    ) -> NDArray[np.float64]:
        """float64 ``[n]``, all positive: the strategy's weights with the modifiers applied.

        In this order: `skip_solved` and `staleness_bonus` scale, `exploration_floor` mixes last and so holds
        for every prompt. A function of the settings, the arguments and what was observed. ``version`` is the
        policy's, which falls behind the step when steps are skipped; None: no step was skipped.

        Raises:
            ConfigError: A strategy of the user's own gave anything but one positive, finite weight per prompt.
            ValueError: The columns hold a value that is NaN or infinite, or lack what the strategy reads.
        """
        if not (np.isfinite(columns.v_hat).all() and np.isfinite(columns.n_eff).all()):
            bad = np.flatnonzero(~(np.isfinite(columns.v_hat) & np.isfinite(columns.n_eff)))
            raise ValueError(
                f"prompt {bad[0]} has v_hat {columns.v_hat[bad[0]]} and n_eff {columns.n_eff[bad[0]]} "
                f"({bad.size} such prompts): the baseline columns are damaged"
            )
        rng = window_generator(self.seed, window, stream=0)
        weights = _checked(
            self._strategy.weights(columns, step=step, total_steps=total_steps, rng=rng),
            num_prompts=columns.num_prompts,
            strategy=self.settings.strategy,
        )
        if self.settings.skip_solved:
            weights = weights * keep_probability(columns.solved_streak)
        if self.settings.staleness_bonus > 0.0:
            weights = weights * staleness_factor(
                columns.last_version,
                version=step if version is None else version,
                bonus=self.settings.staleness_bonus,
            )
        if self.settings.exploration_floor > 0.0:
            weights = mix_with_uniform(weights, self.settings.exploration_floor)
        if weights.size:
            self._mean_weight = float(weights.mean())
            assert np.isfinite(self._mean_weight) and weights.min() > 0.0
            self._asked = shares_by_tenth(columns.v_hat, weights)
        return weights

    def observe(self, batch: ScoredDraws) -> None:
        """Hand the strategy what was scored of a step."""
        self._strategy.observe(batch)

    def metrics(self) -> dict[str, float]:
        """``curriculum/mean_weight`` and ``asked_<i>``, over all prompts at the last refresh, and the strategy's own.

        Nothing before the first refresh. The other ``curriculum/*`` metrics describe the baseline's evidence and
        come from ``BaselineTotals.curriculum_metrics``.
        """
        weight = {} if self._mean_weight is None else {"curriculum/mean_weight": self._mean_weight}
        asked = {f"curriculum/asked_{i}": share for i, share in enumerate(self._asked)}
        return weight | asked | self._strategy.metrics()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in plain types that JSON can hold; generators need none of it."""
        return {
            "strategy": plain_name(self.settings.strategy),
            "strategy_state": self._strategy.state_dict(),
            "mean_weight": self._mean_weight,
            "asked": self._asked,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: It is of another strategy or incomplete; the curriculum stays as it was.
        """
        missing = {"strategy", "strategy_state", "mean_weight"} - set(state)
        if missing:
            raise ValueError(f"curriculum state lacks {', '.join(sorted(missing))}")
        name = plain_name(self.settings.strategy)
        if state["strategy"] != name:
            raise ValueError(
                f"curriculum state is of strategy {state['strategy']!r}, the settings say {name!r}; "
                "resume with the same strategy"
            )
        mean_weight = state["mean_weight"]
        if not (mean_weight is None or isinstance(mean_weight, int | float)):
            raise ValueError(f"curriculum state holds mean_weight {mean_weight!r}; expected a number or null")
        self._strategy.load_state_dict(state["strategy_state"])
        self._mean_weight = mean_weight
        self._asked = [float(share) for share in state.get("asked", [])]


def shares_by_tenth(v_hat: NDArray[np.floating[Any]], weights: NDArray[np.float64] | None = None) -> list[float]:
    """Share of ``weights``, float64 [n] (None: of the prompts), by the tenth of [0, 1] that v̂, float [n], lies in."""
    sums, _ = np.histogram(v_hat, bins=10, range=(0.0, 1.0), weights=weights)
    return [float(share) for share in sums / max(float(sums.sum()), np.finfo(np.float64).tiny)]


def _checked(weights: Any, *, num_prompts: int, strategy: str) -> NDArray[np.float64]:
    found = np.asarray(weights, dtype=np.float64)
    if found.shape != (num_prompts,):
        raise ConfigError(
            f"curriculum.strategy {strategy} gave weights of shape {found.shape} for {num_prompts} prompts; it must "
            "give one weight per prompt"
        )
    if not (np.isfinite(found).all() and (found > 0.0).all()):
        bad = np.flatnonzero(~(np.isfinite(found) & (found > 0.0)))
        raise ConfigError(
            f"curriculum.strategy {strategy} gave prompt {bad[0]} the weight {found[bad[0]]:g} ({bad.size} such "
            "prompts); every weight must be positive and finite"
        )
    return found
