"""The persistent baseline: for every prompt an estimate v̂ of its success probability, kept over the whole run.

The advantage r̃ - v̂ needs no group of completions (BOLT; SPO, arXiv 2509.13232). v̂ is read at dispatch and the outcome
committed after the optimizer step, so a reward never takes part in its own baseline. How v̂ is estimated:
``core.baseline.two_level`` (the default), ``core.baseline.beta``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bolt_ray.core.advantages import scale_rewards
from bolt_ray.core.baseline.level import CommitSums, Level, LevelTracker
from bolt_ray.core.baseline.metrics import BaselineTotals
from bolt_ray.core.baseline.settings import BaselineSettings, level_of
from bolt_ray.core.baseline.snapshot import BaselineSnapshot, join_snapshots, read_snapshot, write_snapshot
from bolt_ray.core.baseline.update import BaselineUpdate, baseline_update
from bolt_ray.core.baseline.values import PromptValues, checked_counts
from bolt_ray.core.baseline.warm_start import RowKey, WarmStartReport, match_prompts, read_warm_start
from bolt_ray.core.keys import KeyBatch
from bolt_ray.core.records import BaselineReading, PromptColumns

__all__ = ["BaselineSettings", "BaselineStore"]


class BaselineStore(PromptValues):
    """``PromptValues`` with single prompts, outcomes as they come, metrics and files.

    ``BaselineStore(rho_min=0.9)`` takes the fields of ``BaselineSettings`` by name, and
    ``BaselineStore(settings)`` a settings object.
    """

    def __init__(self, settings: BaselineSettings | None = None, /, **changes: Any) -> None:
        super().__init__(replace(settings or BaselineSettings(), **changes))
        self._tracker = LevelTracker(strength=self.settings.fixed_strength)

    @property
    def level(self) -> Level:
        """What an unseen prompt is worth now, by data set, and what that counts for."""
        return level_of(self.settings, self._tracker, *self.v_hat_total)

    @property
    def strength(self) -> float:
        """How many outcomes the level counts for against a prompt's own."""
        return self.level.strength

    def get_many(
        self, keys: Sequence[str] | KeyBatch, version: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(v̂, N_eff) of n prompts, float64 [n] each, in their order; ``version`` as in ``PromptValues.read``."""
        read = self.read(keys, version)
        return read.v_hat, read.n_eff

    def get(self, key: str, version: int | None = None) -> tuple[float, float]:
        """(v̂, N_eff) of one prompt; see ``get_many``."""
        v_hat, n_eff = self.get_many([key], version=version)
        return float(v_hat[0]), float(n_eff[0])

    def update(self, key: str, reward: float, kl: float | None = None, version: int | None = None) -> None:
        """Take one outcome.

        Args:
            key: the prompt.
            reward: raw; it is scaled by ``reward_range`` and clipped.
            kl: D of this visit for ``kl`` forgetting; None uses the drift counted by ``update_many``.
            version: policy version that produced it; None is the newest known.

        Raises:
            ValueError: the reward is not finite, or another argument impossible; nothing has changed then.
        """
        scaled = scale_rewards([reward], *self.settings.scaled_from)
        self.apply(
            baseline_update([key], scaled, [1], versions=version, known_version=self._counters.version, distance=kl)
        )

    def update_many(
        self,
        keys: Sequence[str],
        reward_sums: ArrayLike,
        counts: ArrayLike,
        *,
        drift: float | None = None,
        versions: ArrayLike | None = None,
        update_id: str | None = None,
    ) -> bool:
        """Take the outcomes of one commit; several entries of one key are one visit and decay once.

        Args:
            keys: n keys.
            reward_sums: [n], sums of *scaled* rewards r̃ (``scale_rewards``).
            counts: [n], scored completions behind each sum; entries of count 0 are ignored.
            drift: mean token |Δ log π| by which the step just done moved the policy. It is counted after the
                outcomes are taken, which were produced before it. With ``kl_source="batch"`` it is D itself.
            versions: [n] or one number, the policy version of each entry; None is the newest known.
            update_id: an id seen before (among the last 10,000) makes the call do nothing.

        Returns:
            False if ``update_id`` had been applied.

        Raises:
            ValueError: an argument is impossible; nothing has changed then.
        """
        update = baseline_update(
            keys,
            reward_sums,
            counts,
            versions=versions,
            known_version=self._counters.version,
            update_id=update_id,
            drift=drift,
        )
        return self.apply(update) is not None

    def load_from_json(
        self, path: str | Path, *, row_key: RowKey | None = None, allow_pickle: bool = False
    ) -> WarmStartReport:
        """Start from a warm-start file (see ``core.baseline.warm_start``).

        Only registered prompts are matched; if none is registered, every entry of the file is taken.

        Args:
            path: a JSON file.
            row_key: (dataset, row index) -> key, for files keyed ``<dataset>_<row index>``.
            allow_pickle: also read the old ``.pkl`` form, restricted to plain data.

        Raises:
            CheckpointError: the file cannot be used or fits no prompt; nothing has changed then.
        """
        file = read_warm_start(
            Path(path),
            strength=self.settings.warm_start_strength,
            reward_range=self.settings.scaled_from,
            allow_pickle=allow_pickle,
        )
        found = match_prompts(file, rows_of=self.rows_of, num_rows=self.num_rows, row_key=row_key)
        self.seed(found.keys, found.alpha, found.beta)
        return found.report

    def register(
        self,
        keys: Sequence[str] | KeyBatch,
        sources: Sequence[str] | None = None,
        features: NDArray[np.uint16] | None = None,
    ) -> int:
        """As ``add_rows``, with data sets by name."""
        if features is not None and self.settings.learns_texts:
            self._tracker.learn_texts()
        return self.add_rows(keys, None if sources is None else self._tracker.numbers(sources), features)

    def seed(
        self, keys: Sequence[str] | KeyBatch, alpha: ArrayLike, beta: ArrayLike, *, means: ArrayLike | None = None
    ) -> None:
        """As ``PromptValues.seed``; without ``means`` they come from the counts, which enter the level."""
        if means is None:
            means = self._tracker.warm_start(self.source_numbers(keys), *checked_counts(alpha, beta, len(keys)))
        super().seed(keys, alpha, beta, means=means)

    def read(
        self, keys: Sequence[str] | KeyBatch, version: int | None = None, *, level: Level | None = None
    ) -> BaselineReading:
        """As ``PromptValues.read``, at the store's level."""
        return super().read(keys, version, level=level or self.level)

    def columns(self, version: int | None = None, *, level: Level | None = None) -> PromptColumns:
        """As ``PromptValues.columns``, at the store's level."""
        return super().columns(version, level=level or self.level)

    def totals(self, version: int | None = None, *, level: Level | None = None) -> BaselineTotals:
        """As ``PromptValues.totals``, at the store's level."""
        return super().totals(version, level=level or self.level)

    def metrics(self, version: int | None = None) -> dict[str, float]:
        """``baseline/*``, N_eff as of ``version`` (None: the newest known)."""
        return self.totals(version).baseline_metrics(
            level=self.level, drift_ema=self._counters.drift_ema
        ) | self._tracker.metrics(self.level)

    def get_curriculum_stats(self) -> dict[str, float]:
        """``curriculum/*`` over the tracked prompts; see ``BaselineTotals.curriculum_metrics``."""
        return self.totals().curriculum_metrics(level=self.level)

    def snapshot(self, level_state: Mapping[str, Any] | None = None) -> BaselineSnapshot:
        """The evidence of all tracked prompts and the level as they are now."""
        return super().snapshot(self._tracker.state_dict() if level_state is None else level_state)

    def restore(self, snapshots: Sequence[BaselineSnapshot]) -> None:
        """Replace all evidence and the level by those of a snapshot; rows stay.

        Raises:
            CheckpointError: the parts do not belong together or to this store; nothing has changed then.
        """
        whole = join_snapshots(snapshots)
        self.check(whole)
        self.restore_evidence([whole], numbers=self._tracker.load_state_dict(whole.level))

    def save(self, path: str | Path) -> None:
        """Write the evidence of all tracked prompts to the file ``path`` atomically."""
        write_snapshot(Path(path), self.snapshot())

    def load(self, path: str | Path) -> None:
        """Replace all evidence by that of a file written by ``save``; registered rows stay.

        Raises:
            CheckpointError: the file is missing, cut off, altered, of another version or written under other
                settings; nothing has changed then.
        """
        self.restore([read_snapshot(Path(path))])

    def apply(self, update: BaselineUpdate) -> CommitSums | None:
        """As ``PromptValues.apply``, at the store's level unless the commit has its own; then it is counted there."""
        sums = super().apply(update if update.level is not None else replace(update, level=self.level))
        if sums is not None:
            self._tracker.take(sums)
        return sums
