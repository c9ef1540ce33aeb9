"""A scheduler that tracks the difficulty of named items and samples difficulty bins of them.

Public API for programs of their own: a stand-alone scheduler for items identified by name, sampled one bin at a
time. The pipeline does not use it; its strategies work on columns with the arithmetic they share with this class,
`bolt_ray.core.curriculum.binning`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.bin_state import (
    REQUIRED_STATE,
    checked_boundaries,
    checked_items,
    checked_number,
    checked_rebin_count,
    checked_rng,
)
from bolt_ray.core.curriculum.binning import (
    BIN_STRATEGIES,
    MIN_PROBABILITY,
    MIN_TEMPERATURE,
    assign_bins,
    bin_probabilities,
    cut_bins,
)

BINNINGS = ("compatible", "quantile")
REBIN_INTERVAL = 50


class CurriculumScheduler:
    """Tracks the difficulty of named items from their scores and samples difficulty bins.

    Each item keeps an exponential moving average of its scores (the first score as it is). Bin boundaries
    belong to the scores at the last moment a rebinning was due: when at least 50 updates had come since the
    one before. They are computed on demand, from a journal of what changed since that moment,
    so `update` costs O(1) however many items are tracked.

    Args:
        strategy: one of `BIN_STRATEGIES`.
        n_bins: number of bins, at least 1.
        temperature: above 1 flattens the distribution over bins, below 1 sharpens it; at least 0.01.
        ema_alpha: weight of a new score in the average; clipped to [0, 1].
        competence_threshold: the score taken as "competent". With ``binning="quantile"`` the bin in which an
            item of this score lies is where ``competence_based`` stands half-way through the run; unused by
            ``binning="compatible"``.
        binning: "compatible" or "quantile", see `binning.cut_bins`.
        seed: seeds the sampling of bins and items.

    Raises:
        ValueError: An unknown strategy or binning, n_bins < 1, or a setting that is not a finite number.
    """

    def __init__(
        self,
        strategy: str = "uniform",
        n_bins: int = 5,
        temperature: float = 1.0,
        ema_alpha: float = 0.3,
        competence_threshold: float = 0.5,
        *,
        binning: str = "compatible",
        seed: int = 0,
    ) -> None:
        if strategy not in BIN_STRATEGIES:
            raise ValueError(f"unknown curriculum strategy {strategy!r}; known: {', '.join(BIN_STRATEGIES)}")
        if binning not in BINNINGS:
            raise ValueError(f"unknown binning {binning!r}; known: {', '.join(BINNINGS)}")
        if n_bins < 1:
            raise ValueError(f"n_bins is {n_bins}; at least 1 is needed")
        for name, value in (
            ("temperature", temperature),
            ("ema_alpha", ema_alpha),
            ("competence_threshold", competence_threshold),
        ):
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value}; a finite number is needed")
        self._strategy = strategy
        self.binning = binning
        self.n_bins = n_bins
        self.temperature = max(MIN_TEMPERATURE, float(temperature))
        self.ema_alpha = min(1.0, max(0.0, float(ema_alpha)))
        self.competence_threshold = float(competence_threshold)
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._set_items({}, last_rebin_count=0, boundaries=None)

    def _set_items(
        self,
        items: Mapping[str, tuple[float, int]],
        *,
        last_rebin_count: int,
        boundaries: NDArray[np.float64] | None,
    ) -> None:
        self._index = {key: i for i, key in enumerate(items)}
        # Typed arrays: as quick as lists one by one, and numpy copies them in one piece when bins are cut.
        self._scores = array("d", (score for score, _ in items.values()))
        self._counts = array("q", (count for _, count in items.values()))
        self._total_updates = sum(self._counts)
        self._last_rebin_count = last_rebin_count
        self._boundaries = boundaries
        self._rebin_due = False
        self._items_when_due = 0
        self._journal: list[tuple[int, float]] = []

    @property
    def strategy(self) -> str:
        """Name of the strategy."""
        return self._strategy

    @property
    def n_items_tracked(self) -> int:
        """Number of items that have a score."""
        return len(self._scores)

    def update(self, item_key: str, score: float) -> None:
        """Take one score of an item into its average.

        Raises:
            ValueError: The score is NaN or infinite; nothing is changed.
        """
        score = float(score)
        if not math.isfinite(score):
            raise ValueError(f"score {score} of item {item_key!r} is not finite; leave out what has no score")
        index = self._index.get(item_key)
        if index is None:
            self._index[item_key] = len(self._scores)
            self._scores.append(score)
            self._counts.append(1)
        else:
            old = self._scores[index]
            if self._rebin_due:
                self._journal.append((index, old))
            self._scores[index] = self.ema_alpha * score + (1.0 - self.ema_alpha) * old
            self._counts[index] += 1
        self._total_updates += 1
        if self._total_updates - self._last_rebin_count >= REBIN_INTERVAL:
            self._last_rebin_count = self._total_updates
            self._rebin_due = True
            self._items_when_due = len(self._scores)
            self._journal.clear()

    def update_batch(self, item_key: str, scores: Sequence[float]) -> None:
        """Take the mean of several scores of one item, as one update; no scores are no update.

        Raises:
            ValueError: A score is NaN or infinite; nothing is changed.
        """
        if len(scores) > 0:
            self.update(item_key, sum(scores) / len(scores))

    def get_item_difficulty(self, item_key: str) -> float | None:
        """The item's average score (high = easy), None for an item never scored."""
        index = self._index.get(item_key)
        return None if index is None else self._scores[index]

    def get_item_bin(self, item_key: str) -> int:
        """The item's bin, 0 = easiest; the middle bin ``n_bins // 2`` for an item never scored."""
        index = self._index.get(item_key)
        if index is None:
            return self.n_bins // 2
        return int(assign_bins(np.array([self._scores[index]]), self._current_boundaries())[0])

    def sample_bin(self, current_step: int = 0, total_steps: int = 1000) -> int:
        """A bin drawn by the strategy; once items are tracked, one that holds at least one of them."""
        counts = self._bin_counts()
        return self._draw_bin(current_step, total_steps, counts > 0 if self._scores else None)

    def sample_item(self, item_keys: Sequence[str], current_step: int = 0, total_steps: int = 1000) -> str:
        """One of the given items: a bin drawn among those they occupy, then any item of it.

        Args:
            item_keys: the candidates, at least one; items never scored count in the middle bin.
            current_step: steps done.
            total_steps: steps of the whole run.

        Raises:
            ValueError: No candidates are given.
        """
        if not item_keys:
            raise ValueError("cannot sample an item from none")
        bins = np.array([self.get_item_bin(key) for key in item_keys])
        occupied = np.bincount(bins, minlength=self.n_bins) > 0
        members = np.flatnonzero(bins == self._draw_bin(current_step, total_steps, occupied))
        return item_keys[int(members[self._rng.integers(members.size)])]

    def probabilities(self, current_step: int = 0, total_steps: int = 1000) -> NDArray[np.float64]:
        """float64 ``[n_bins]``, summing to 1: the strategy's distribution, empty bins not yet left out."""
        frontier = None
        if self.binning == "quantile" and self._scores:
            level = np.array([self.competence_threshold])
            frontier = int(assign_bins(level, self._current_boundaries())[0])
        return bin_probabilities(
            self._strategy,
            self.n_bins,
            step=current_step,
            total_steps=total_steps,
            temperature=self.temperature,
            frontier_bin=frontier,
        )

    def _draw_bin(self, step: int, total_steps: int, allowed: NDArray[np.bool_] | None) -> int:
        p = np.maximum(self.probabilities(step, total_steps), MIN_PROBABILITY)
        if allowed is not None:
            p = np.where(allowed, p, 0.0)
        return int(self._rng.choice(self.n_bins, p=p / p.sum()))

    def _bin_counts(self) -> NDArray[np.int64]:
        """int64 ``[n_bins]``: tracked items in each bin."""
        if not self._scores:
            return np.zeros(self.n_bins, dtype=np.int64)
        bins = assign_bins(np.array(self._scores), self._current_boundaries())
        return np.bincount(bins, minlength=self.n_bins)

    def _current_boundaries(self) -> NDArray[np.float64]:
        """The boundaries of the last rebinning due, computed now if that was not yet done."""
        if self._rebin_due:
            scores = np.array(self._scores[: self._items_when_due])
            for index, old in reversed(self._journal):
                if index < self._items_when_due:
                    scores[index] = old
            self._boundaries = cut_bins(scores, self.n_bins, self.binning)
            self._rebin_due = False
            self._journal.clear()
        elif self._boundaries is None:
            self._boundaries = cut_bins(np.array(self._scores), self.n_bins, self.binning)
        return self._boundaries

    def metrics_dict(self) -> dict[str, float]:
        """``curriculum/`` numbers: items and updates, items per bin, difficulties if any."""
        metrics = {
            "curriculum/items_tracked": float(self.n_items_tracked),
            "curriculum/total_updates": float(self._total_updates),
        }
        if self._scores:
            metrics["curriculum/mean_difficulty"] = math.fsum(self._scores) / len(self._scores)
            metrics["curriculum/min_difficulty"] = min(self._scores)
            metrics["curriculum/max_difficulty"] = max(self._scores)
        for i, count in enumerate(self._bin_counts()):
            metrics[f"curriculum/bin_{i}_count"] = float(count)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to go on, a copy, in plain types that JSON can hold."""
        known = self._rebin_due or self._boundaries is not None
        return {
            "strategy": self._strategy,
            "n_bins": self.n_bins,
            "temperature": self.temperature,
            "ema_alpha": self.ema_alpha,
            "competence_threshold": self.competence_threshold,
            "binning": self.binning,
            "item_scores": {key: (self._scores[i], self._counts[i]) for key, i in self._index.items()},
            "bin_boundaries": [float(b) for b in self._current_boundaries()] if known else [],
            "last_rebin_count": self._last_rebin_count,
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, its settings included; copies what it takes.

        ``binning`` and ``rng`` may be missing, as in states written by earlier systems: compatible binning,
        and the generator as it is.

        Raises:
            ValueError: The state lacks a key or holds an impossible value; the scheduler stays as it was.
        """
        missing = [key for key in REQUIRED_STATE if key not in state]
        if missing:
            raise ValueError(f"curriculum state lacks {', '.join(missing)}")
        items = checked_items(state["item_scores"])
        total = sum(count for _, count in items.values())
        last_rebin_count = checked_rebin_count(state["last_rebin_count"], total)
        loaded = CurriculumScheduler(
            strategy=state["strategy"],
            n_bins=checked_number(state, "n_bins", integer=True),
            temperature=checked_number(state, "temperature"),
            ema_alpha=checked_number(state, "ema_alpha"),
            competence_threshold=checked_number(state, "competence_threshold"),
            binning=state.get("binning", "compatible"),
        )
        loaded._rng.bit_generator.state = checked_rng(state.get("rng", self._rng.bit_generator.state))
        boundaries = checked_boundaries(state["bin_boundaries"], loaded.n_bins)
        loaded._set_items(items, last_rebin_count=last_rebin_count, boundaries=boundaries)
        self.__dict__.update(loaded.__dict__)
