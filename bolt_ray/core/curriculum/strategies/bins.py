"""Prompts by difficulty bins, from easy to hard over the run: `core.bins` for a whole data set at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.binning import (
    MIN_PROBABILITY,
    assign_bins,
    bin_probabilities,
    cut_bins,
)
from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import ScoredDraws
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import PromptColumns

declare_metrics(
    {
        "curriculum/items_tracked": ("prompts", "easy_first, competence_based: prompts with a score of their own"),
        "curriculum/total_updates": (
            "",
            "easy_first, competence_based: visits behind those scores, or with ema_alpha completions",
        ),
        "curriculum/mean_difficulty": ("", "easy_first, competence_based: mean score; high is easy"),
        "curriculum/min_difficulty": ("", "easy_first, competence_based: lowest score"),
        "curriculum/max_difficulty": ("", "easy_first, competence_based: highest score"),
        "curriculum/bin_{i}_count": (
            "prompts",
            "easy_first, competence_based: prompts with a score of their own in bin i at the last refresh; 0 is easy",
        ),
    }
)


class MovingAverages:
    """An exponential moving average of rewards per prompt, the first as it is; float64 and int32 a prompt."""

    def __init__(self, alpha: float) -> None:
        self._alpha = alpha
        self.values = np.zeros(0, dtype=np.float64)
        self.counts = np.zeros(0, dtype=np.int32)

    def resize(self, size: int) -> None:
        missing = max(0, size - self.values.size)
        self.values = np.append(self.values, np.zeros(missing))
        self.counts = np.append(self.counts, np.zeros(missing, dtype=np.int32))

    def update(self, rows: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        """Take rewards, [B], of the prompts in ``rows``, [B], in this order; a prompt may come several times."""
        if rows.size == 0:
            return
        self.resize(int(rows.max()) + 1)
        order = np.argsort(rows, kind="stable")
        prompts, first, counts = np.unique(rows[order], return_index=True, return_counts=True)
        rewards = rewards[order]
        for turn in range(int(counts.max())):
            here = counts > turn
            seen, reward = prompts[here], rewards[first[here] + turn]
            moved = self._alpha * reward + (1.0 - self._alpha) * self.values[seen]
            self.values[seen] = np.where(self.counts[seen] == 0, reward, moved)
            self.counts[seen] += 1

    def state_dict(self) -> dict[str, Any]:
        """Prompts with a reward; its size grows with them."""
        rows = np.flatnonzero(self.counts)
        return {"rows": rows.tolist(), "values": self.values[rows].tolist(), "counts": self.counts[rows].tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; ValueError if it is none, and then nothing has changed."""
        rows, values, counts = (np.asarray(state.get(name, [])) for name in ("rows", "values", "counts"))
        sound = rows.shape == values.shape == counts.shape and rows.ndim == 1
        if not sound or (rows.size and not (rows.min() >= 0 and np.isfinite(values).all() and counts.min() >= 1)):
            raise ValueError("the state of the difficulty bins holds no finite average and count for each row")
        size = int(rows.max()) + 1 if rows.size else 0
        self.values, self.counts = np.zeros(size), np.zeros(size, dtype=np.int32)
        self.values[rows.astype(np.int64)] = values
        self.counts[rows.astype(np.int64)] = counts


class _Binned:
    """The prompts are cut into bins by their scores; a bin is drawn by its probability, then any prompt of it.

    A score is the baseline's v̂, of a prompt never seen the level; with ``ema_alpha`` it is the prompt's own moving
    average of rewards, and a prompt without one counts in the middle bin. Costs one partition of the scores a refresh.
    """

    scheme: str
    """Name of the bins' probabilities, see `binning.bin_probabilities`."""

    def __init__(self, settings: CurriculumSettings) -> None:
        self._settings = settings
        self._averages = None if settings.ema_alpha is None else MovingAverages(settings.ema_alpha)
        self._metrics: dict[str, float] = {}

    @property
    def competence(self) -> float | None:
        """The success rate whose bin is the frontier; None where there is none."""
        return None

    def weights(
        self, columns: PromptColumns, *, step: int, total_steps: int, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """float64 ``[n]``, mean 1."""
        num_bins, settings = self._settings.num_bins, self._settings
        scores, tracked, updates = self._scores(columns)
        known = scores if self._averages is None else scores[tracked]
        if known.size == 0:
            return np.ones(columns.num_prompts)
        boundaries = cut_bins(known, num_bins, settings.binning)
        bins = assign_bins(scores, boundaries)
        if self._averages is not None:
            bins = np.where(tracked, bins, num_bins // 2)
        frontier = None
        if self.competence is not None and settings.binning == "quantile":
            frontier = int(assign_bins(np.array([self.competence]), boundaries)[0])
        p = bin_probabilities(
            self.scheme,
            num_bins,
            step=step,
            total_steps=total_steps,
            temperature=settings.temperature,
            frontier_bin=frontier,
        )
        self._metrics = _metrics(scores[tracked], bins[tracked], num_bins=num_bins, updates=updates)
        sizes = np.bincount(bins, minlength=num_bins)
        # Bins left empty by equal scores pass their probability to the others in proportion.
        p = np.where(sizes > 0, np.maximum(p, MIN_PROBABILITY), 0.0)
        per_prompt: NDArray[np.float64] = p / p.sum() / np.maximum(sizes, 1) * columns.num_prompts
        return per_prompt[bins]

    def observe(self, batch: ScoredDraws) -> None:
        """With ``ema_alpha``: the rewards enter the averages."""
        if self._averages is not None:
            self._averages.update(batch.rows, batch.rewards)

    def metrics(self) -> dict[str, float]:
        """As `core.bins.CurriculumScheduler.metrics_dict`, at the last refresh of the weights."""
        return dict(self._metrics)

    def state_dict(self) -> dict[str, Any]:
        averages = {} if self._averages is None else {"averages": self._averages.state_dict()}
        return averages | {"metrics": self._metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`; ValueError for one of other settings."""
        if (self._averages is not None) != ("averages" in state):
            raise ValueError("the state was saved with another curriculum.ema_alpha; resume with the run's settings")
        if self._averages is not None:
            self._averages.load_state_dict(state["averages"])
        self._metrics = {str(name): float(value) for name, value in state.get("metrics", {}).items()}

    def _scores(self, columns: PromptColumns) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
        """Scores, float64 ``[n]``; which prompts have one of their own, bool ``[n]``; the updates behind them."""
        if self._averages is None:
            return columns.v_hat.astype(np.float64), columns.last_version >= 0, int(columns.visits.sum())
        self._averages.resize(columns.num_prompts)
        counts = self._averages.counts[: columns.num_prompts]
        return self._averages.values[: columns.num_prompts], counts > 0, int(counts.sum())


class EasyFirst(_Binned):
    """Bin i drawn with p_i ~ (1 - t) exp(-2 i / max(1, n - 1)) + t / n, t the share of the run that is done."""

    scheme = "easy_first"


class CompetenceBased(_Binned):
    """Bin i drawn with p_i ~ exp(-(i - c)^2 / 2) (after Platanios et al. 2019, arXiv 1904.03746).

    The center c moves from the easiest bin to the hardest over the run; with ``binning: quantile`` it stands half-way
    through it at the bin where the score passes ``target``. See `binning.bin_probabilities`.
    """

    scheme = "competence_based"

    @property
    def competence(self) -> float:
        return self._settings.target


def _metrics(scores: NDArray[np.float64], bins: NDArray[np.int64], *, num_bins: int, updates: int) -> dict[str, float]:
    """Of the prompts with a score of their own."""
    metrics = {"curriculum/items_tracked": float(scores.size), "curriculum/total_updates": float(updates)}
    if scores.size:
        metrics["curriculum/mean_difficulty"] = float(scores.mean())
        metrics["curriculum/min_difficulty"] = float(scores.min())
        metrics["curriculum/max_difficulty"] = float(scores.max())
    counts = np.bincount(bins, minlength=num_bins)
    return metrics | {f"curriculum/bin_{i}_count": float(count) for i, count in enumerate(counts)}
