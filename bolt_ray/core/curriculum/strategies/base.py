"""The interface of a curriculum strategy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.records import PromptColumns

MIN_N_EFF = 1e-3
"""Evidence decays towards nothing; less than this counts as this, which keeps weights finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredDraws:
    """The scored completions of a step as a strategy sees them, B in all.

    Attributes:
        rows: int64 ``[B]``, the places of their prompts in the columns.
        rewards: float64 ``[B]``, scaled to [0, 1], without shaping.
        abs_advantages: float64 ``[B]``, |reward - v_hat|.
        trained: bool ``[B]``; False for what was left out of training, as a group without variance is.
        categories: int ``[B]``, of their prompts; None when the data has no categories.
    """

    rows: NDArray[np.int64]
    rewards: NDArray[np.float64]
    abs_advantages: NDArray[np.float64]
    trained: NDArray[np.bool_]
    categories: NDArray[np.integer[Any]] | None = None


class Strategy(Protocol):
    """Turns what is known about every prompt into weights to draw prompts by."""

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float64 ``[n]``, all positive and finite, in any scale."""
        ...

    def observe(self, batch: ScoredDraws) -> None:
        """Learn from one step."""
        ...

    def metrics(self) -> dict[str, float]:
        """``curriculum/`` numbers of the strategy's own state."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """The strategy's own state in plain types that JSON can hold."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; ValueError for one that is not this strategy's."""
        ...


class MemorylessStrategy:
    """Base of the strategies without state: they read the columns alone."""

    def observe(self, batch: ScoredDraws) -> None:
        """Nothing to learn: the strategy depends on the columns alone."""

    def metrics(self) -> dict[str, float]:
        """No state, no numbers."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take an empty state; ValueError for anything else."""
        if state:
            raise ValueError(f"this strategy keeps no state, but got {', '.join(sorted(state))}")
