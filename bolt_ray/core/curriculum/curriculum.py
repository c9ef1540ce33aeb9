"""The curriculum: one strategy, the options over it, and generators of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.columns import PromptColumns
from bolt_ray.core.curriculum.modifiers import keep_probability, mix_with_uniform, staleness_factor
from bolt_ray.core.curriculum.sampling import segment_generator
from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.registry import make_strategy
from bolt_ray.core.curriculum.strategies.uncertainty import outcome_std

EASY, HARD = 0.8, 0.2
LEARNING_EDGE = (0.3, 0.7)


class Curriculum:
    """Weights over all prompts, refreshed once per segment.

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

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, segment: int, version: int | None = None
    ) -> NDArray[np.float64]:
        """float64 ``[n]``, all positive: the strategy's weights with the options laid over them.

        In this order: `skip_solved` and `staleness_bonus` scale, `exploration_floor` mixes last and so holds
        for every prompt. A function of the settings, the arguments and what was observed. ``version`` is the
        policy's, which falls behind the step when steps are skipped; None: no step was.

        Raises:
            ValueError: The columns hold a value that is NaN or infinite, or lack what the strategy reads.
        """
        if not (np.isfinite(columns.v_hat).all() and np.isfinite(columns.n_eff).all()):
            bad = np.flatnonzero(~(np.isfinite(columns.v_hat) & np.isfinite(columns.n_eff)))
            raise ValueError(
                f"prompt {bad[0]} has v_hat {columns.v_hat[bad[0]]} and n_eff {columns.n_eff[bad[0]]} "
                f"({bad.size} such prompts): the baseline columns are damaged"
            )
        rng = segment_generator(self.seed, segment, stream=0)
        weights = self._strategy.weights(columns, step=step, total_steps=total_steps, rng=rng)
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
            assert np.isfinite(self._mean_weight) and weights.min() > 0.0, self.settings.strategy
        return weights

    def observe(
        self, *, categories: NDArray[np.integer[Any]] | None, abs_advantages: NDArray[np.floating[Any]]
    ) -> None:
        """Hand the strategy one trained batch: ``[B]`` categories of the prompts, ``[B]`` |advantages|."""
        self._strategy.observe(categories=categories, abs_advantages=abs_advantages)

    def metrics(self, columns: PromptColumns) -> dict[str, float]:
        """``curriculum/*``; ``pct_*`` and ``coverage`` are percentages.

        Means and percentages run over the prompts seen at least once; before any is seen, over all, so that a
        warm start shows. `mean_weight` is over all prompts at the last refresh, and absent before the first.
        """
        visited = columns.visits > 0
        num_seen = int(np.count_nonzero(visited))
        metrics = {
            "curriculum/n_tracked": float(num_seen),
            "curriculum/coverage": 100.0 * num_seen / max(1, columns.num_prompts),
            **self._strategy.metrics(),
        }
        if self._mean_weight is not None:
            metrics["curriculum/mean_weight"] = self._mean_weight
        v_hat = (columns.v_hat[visited] if num_seen else columns.v_hat).astype(np.float64)
        if v_hat.size:
            low, high = LEARNING_EDGE
            # v_hat is held in float32, where 0.7 is a little less than 0.7 and 0.3 a little more.
            in_edge = (v_hat >= np.float32(low)) & (v_hat <= np.float32(high))
            metrics |= {
                "curriculum/mean_v_hat": float(v_hat.mean()),
                "curriculum/std_v_hat": float(v_hat.std()),
                "curriculum/mean_uncertainty": float(outcome_std(v_hat).mean()),
                "curriculum/pct_easy": 100.0 * float((v_hat > np.float32(EASY)).mean()),
                "curriculum/pct_hard": 100.0 * float((v_hat < np.float32(HARD)).mean()),
                "curriculum/pct_learning_edge": 100.0 * float(in_edge.mean()),
            }
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in plain types that JSON can hold; generators need none of it."""
        return {
            "strategy": self.settings.strategy,
            "strategy_state": self._strategy.state_dict(),
            "mean_weight": self._mean_weight,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: It is of another strategy or incomplete; the curriculum stays as it was.
        """
        missing = {"strategy", "strategy_state", "mean_weight"} - set(state)
        if missing:
            raise ValueError(f"curriculum state lacks {', '.join(sorted(missing))}")
        if state["strategy"] != self.settings.strategy:
            raise ValueError(
                f"curriculum state is of strategy {state['strategy']!r}, the settings say "
                f"{self.settings.strategy!r}; resume with the same strategy"
            )
        mean_weight = state["mean_weight"]
        if not (mean_weight is None or isinstance(mean_weight, int | float)):
            raise ValueError(f"curriculum state holds mean_weight {mean_weight!r}; expected a number or null")
        self._strategy.load_state_dict(state["strategy_state"])
        self._mean_weight = mean_weight
