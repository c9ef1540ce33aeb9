"""A bandit over categories of prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.binning import MIN_PROBABILITY
from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import ScoredDraws
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import PromptColumns

declare_metrics(
    {
        "curriculum/sec_q_{i}": ("", "strategy sec: the bandit's value of category i"),
    }
)


class Sec:
    """Q <- eta r + (1 - eta) Q per category, r = mean |A|; P = softmax(Q / temperature) (SEC, 2505.14970).

    A category is drawn with probability P, then any prompt of it. Q starts at 0. Batches move Q through
    `observe`; a category without a sequence in the batch keeps its Q.
    """

    def __init__(self, settings: CurriculumSettings) -> None:
        self.learning_rate = settings.learning_rate
        self.temperature = settings.temperature
        self._q = np.zeros(0, dtype=np.float64)

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float64 ``[n]``, mean 1: P of the prompt's category over the category's size.

        Raises:
            ValueError: The columns carry no categories.
        """
        if columns.category is None:
            raise ValueError("strategy 'sec' needs a category per prompt: name the column that holds it")
        if columns.num_prompts == 0:
            return np.empty(0, dtype=np.float64)
        sizes = np.bincount(_checked_categories(columns.category), minlength=self._q.size)
        present = sizes > 0
        q = self._grown_to(sizes.size)
        logits = q / self.temperature
        p = np.where(present, np.exp(logits - logits[present].max()), 0.0)
        # A category far behind still gets a draw now and then, else its Q could never recover.
        p = np.where(present, np.maximum(p, MIN_PROBABILITY), 0.0)
        per_prompt: NDArray[np.float64] = p / p.sum() / np.maximum(sizes, 1) * columns.num_prompts
        return per_prompt[columns.category]

    def observe(self, batch: ScoredDraws) -> None:
        """Move Q by what was trained of a step.

        Raises:
            ValueError: No categories, unequal lengths, or a value that is negative or not finite; Q is kept.
        """
        if batch.categories is None:
            raise ValueError("strategy 'sec' learns per category, but the batch carries none")
        if batch.categories.shape != batch.abs_advantages.shape:
            raise ValueError(f"{batch.categories.shape} categories for {batch.abs_advantages.shape} advantages")
        categories, abs_advantages = batch.categories[batch.trained], batch.abs_advantages[batch.trained]
        if categories.size == 0:
            return
        if not (np.isfinite(abs_advantages).all() and abs_advantages.min() >= 0.0):
            raise ValueError("absolute advantages must be finite and not negative")
        counts = np.bincount(_checked_categories(categories), minlength=self._q.size)
        sums = np.bincount(categories, weights=abs_advantages, minlength=self._q.size)
        q = self._grown_to(counts.size)
        moved = self.learning_rate * (sums / np.maximum(counts, 1)) + (1.0 - self.learning_rate) * q
        self._q = np.where(counts > 0, moved, q)

    def _grown_to(self, size: int) -> NDArray[np.float64]:
        return np.append(self._q, np.zeros(max(0, size - self._q.size)))

    def metrics(self) -> dict[str, float]:
        """``curriculum/sec_q_<category>`` for every category seen."""
        return {f"curriculum/sec_q_{i}": float(q) for i, q in enumerate(self._q)}

    def state_dict(self) -> dict[str, Any]:
        """``{"q": [Q per category]}``."""
        return {"q": self._q.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; ValueError if it holds anything but finite Q values."""
        q = state.get("q")
        if set(state) != {"q"} or not isinstance(q, list):
            raise ValueError(f"not the state of strategy 'sec': expected a list q, got {sorted(state)}")
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in q):
            raise ValueError(f"the state of strategy 'sec' holds Q values that are not finite numbers: {q}")
        self._q = np.array(q, dtype=np.float64)


def _checked_categories(categories: NDArray[np.integer[Any]]) -> NDArray[np.integer[Any]]:
    if categories.min() < 0:
        raise ValueError(f"category {categories.min()} is negative; categories are numbered from 0")
    return categories
