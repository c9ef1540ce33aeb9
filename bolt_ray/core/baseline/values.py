"""The values of all prompts in columns: what one shard holds, and how a commit changes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bolt_ray.core.baseline.beta import BetaEvidence
from bolt_ray.core.baseline.evidence import UNSEEN, EvidenceTable
from bolt_ray.core.baseline.key_index import ABSENT, KeyIndex
from bolt_ray.core.baseline.level import CommitSums, Level
from bolt_ray.core.baseline.metrics import BaselineTotals, value_totals
from bolt_ray.core.baseline.settings import BaselineSettings
from bolt_ray.core.baseline.snapshot import BaselineCounters, BaselineSnapshot, join_snapshots
from bolt_ray.core.baseline.two_level import ResidualEvidence
from bolt_ray.core.baseline.units import whole_units
from bolt_ray.core.baseline.update import BaselineUpdate
from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.keys import KeyBatch, encode_keys
from bolt_ray.core.records import BaselineReading, PromptColumns

_REMEMBERED_UPDATES = 10_000
_DRIFT_EMA = 0.1


class PromptValues:
    """Values of any number of prompts, in columns; at most 64 bytes per prompt besides its key, and 22 for features.

    A prompt is *tracked* once it has evidence. For one that is only registered, or unknown, reads give the level's.
    The level belongs to the whole store and is given with every call that needs it.
    Not safe to use from several threads at once.
    """

    def __init__(self, settings: BaselineSettings) -> None:
        self.settings = settings
        self._index = KeyIndex()
        self._evidence: EvidenceTable = (
            ResidualEvidence(settings)
            if settings.estimator == "two_level"
            else BetaEvidence(settings, prior_varies=settings.prior == "mean")
        )
        self._rows: list[NDArray[np.int32]] = []
        self._counters = BaselineCounters()
        self._update_ids: dict[str, None] = {}
        self._last_sums: tuple[str | None, CommitSums | None] = (None, None)
        self._tracked = 0
        self._v_hat_units = 0

    def __len__(self) -> int:
        """Tracked prompts."""
        return self._tracked

    @property
    def num_rows(self) -> int:
        """Registered rows."""
        return sum(rows.size for rows in self._rows)

    @property
    def counters(self) -> BaselineCounters:
        return self._counters

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and evidence."""
        return self._index.nbytes + self._evidence.nbytes + sum(rows.nbytes for rows in self._rows)

    @property
    def v_hat_total(self) -> tuple[int, int]:
        """(tracked prompts, Σ v̂ in whole units); the second only where a prior follows it, else 0."""
        return self._tracked, self._v_hat_units

    def add_rows(
        self,
        keys: Sequence[str] | KeyBatch,
        sources: NDArray[np.integer[Any]] | None = None,
        features: NDArray[np.uint16] | None = None,
    ) -> int:
        """Append rows of the data set; returns the number of the first of them, counted from 0.

        Two rows may have one key; they share its evidence, and the data set of the first. Registering a known key
        leaves its evidence alone.

        Args:
            keys: n keys.
            sources: int [n], the number of each row's data set in the store's level; None: of the unnamed one.
            features: uint16 [n, NUM_FEATURES], of their texts (``prompt_features``); None: unknown.
        """
        first = self.num_rows
        batch = _columns_of(keys)
        if len(self._index) == 0:
            self._index.reserve(len(batch))
        slots = self._index.add(batch)
        self._evidence.resize(len(self._index), exactly=first == 0)
        if sources is not None:
            # Backwards, so that of several rows with one key the first is written last.
            self._evidence.name_sources(slots[::-1], np.asarray(sources)[::-1])
        if features is not None and self.settings.learns_texts:
            self._evidence.describe(slots, features)
        self._rows.append(slots.astype(np.int32))
        return first

    def rows_of(self, keys: Sequence[str] | KeyBatch) -> NDArray[np.int64]:
        """int64 [n]: how many registered rows have each key."""
        slots = self._index.find(_columns_of(keys).digests)
        per_slot = np.bincount(self._row_slots(), minlength=len(self._index) + 1)
        return np.where(slots == ABSENT, 0, per_slot[slots])

    def read(self, keys: Sequence[str] | KeyBatch, version: int | None = None, *, level: Level) -> BaselineReading:
        """What is known of n prompts, in their order.

        Args:
            keys: n keys.
            version: policy version of the reader; under ``event`` N_eff is decayed up to it. None: as it
                stood at each prompt's newest outcome.
            level: of the store.
        """
        slots = self._index.find(_columns_of(keys).digests)
        known = slots != ABSENT
        slots = slots[known]
        read = BaselineReading(
            v_hat=np.full(known.size, level.mean),
            n_eff=np.full(known.size, level.unseen_count),
            last_version=np.full(known.size, UNSEEN, dtype=np.int64),
            visits=np.zeros(known.size, dtype=np.int64),
        )
        read.v_hat[known] = self._evidence.v_hat(slots, level)
        read.n_eff[known] = self._evidence.n_eff(slots, level, version)
        read.last_version[known] = self._last_trained(slots)
        read.visits[known] = self._evidence.column("visits")[slots]
        return read

    def has_applied(self, update_id: str | None) -> bool:
        """Whether a commit of this id has been taken."""
        return update_id in self._update_ids

    def sums_of(self, update_id: str | None) -> CommitSums | None:
        """What the commit of this id added to the level, if it was the last one; None otherwise."""
        last, sums = self._last_sums
        return sums if update_id is not None and last == update_id else None

    def apply(self, update: BaselineUpdate) -> CommitSums | None:
        """Take a commit that has been checked and has its level.

        Returns:
            What it adds to the level; None if its id had been applied, and then nothing has changed.
        """
        if self.has_applied(update.update_id):
            return None
        level = update.level
        assert level is not None, "whoever keeps the level gives it"
        batch_distance = self.settings.kl_source == "batch" and update.distance is None
        if batch_distance and self.settings.forgetting == "kl":
            update = replace(update, distance=update.drift or 0.0)
        sums = CommitSums.nothing(level)
        if len(update.keys):
            slots = self._index.add(update.keys)
            self._evidence.resize(len(self._index))
            visited = np.unique(slots)
            self._count(visited, -1)
            sums = self._evidence.apply(slots, update, level=level, drift_total=self._counters.drift_total)
            self._count(visited, +1)
        self._advance(update)
        self._last_sums = (update.update_id, sums)
        return sums

    def seed(self, keys: Sequence[str] | KeyBatch, alpha: ArrayLike, beta: ArrayLike, *, means: ArrayLike) -> None:
        """Set evidence from elsewhere, dated to policy version 0; visited prompts keep their own.

        Args:
            keys: n different keys.
            alpha, beta: [n], not negative, not both 0.
            means: [n], the mean value there of each prompt's data set.

        Raises:
            ValueError: a count is impossible.
        """
        batch = _columns_of(keys)
        a, b = checked_counts(alpha, beta, len(batch))
        slots = self._index.add(batch)
        self._evidence.resize(len(self._index))
        new = self._evidence.column("visits")[slots] == 0
        slots = slots[new]
        self._count(slots, -1)
        self._evidence.seed(
            slots,
            a[new],
            b[new],
            means=np.asarray(means, dtype=np.float64)[new],
            version=0,
            drift_total=self._counters.drift_total,
        )
        self._count(slots, +1)

    def source_numbers(self, keys: Sequence[str] | KeyBatch) -> NDArray[np.int64]:
        """int64 [n]: the number of each prompt's data set; 0 for one that was registered with none."""
        slots = self._index.find(_columns_of(keys).digests)
        known = slots != ABSENT
        numbers = np.zeros(slots.size, dtype=np.int64)
        numbers[known] = self._evidence.column("source")[slots[known]]
        return numbers

    def columns(self, version: int | None = None, *, level: Level) -> PromptColumns:
        """What the curriculum reads of every registered row; of every known key if none is registered.

        Args:
            version: N_eff is given as of this policy version; None is the newest known.
            level: of the store.
        """
        slots = self._row_slots() if self._rows else np.arange(len(self._index))
        at = self._counters.version if version is None else version
        return PromptColumns(
            v_hat=self._evidence.v_hat(slots, level).astype(np.float32),
            n_eff=self._evidence.weight(slots, level, at).astype(np.float32),
            visits=self._evidence.column("visits")[slots],
            solved_streak=self._evidence.column("solved_streak")[slots],
            last_version=self._last_trained(slots),
        )

    def totals(self, version: int | None = None, *, level: Level) -> BaselineTotals:
        """The sums the metrics are made of, N_eff as of ``version`` (None: the newest known)."""
        tracked = np.flatnonzero(self._evidence.column("last_version") != UNSEEN)
        at = self._counters.version if version is None else version
        visits = self._evidence.column("visits")
        rows = self._row_slots()
        return replace(
            value_totals(
                self._evidence.v_hat(tracked, level),
                self._evidence.n_eff(tracked, level, at),
                visits[tracked],
            ),
            rows=rows.size,
            visited_rows=int((visits[rows] > 0).sum()),
            cold_rows=int((self._evidence.column("last_version")[rows] == UNSEEN).sum()),
        )

    def snapshot(self, level_state: Mapping[str, Any] | None = None) -> BaselineSnapshot:
        """The evidence of all tracked prompts as it is now; later updates do not change it.

        Args:
            level_state: of the level, kept with it; None: kept elsewhere.
        """
        tracked = np.flatnonzero(self._evidence.column("last_version") != UNSEEN)
        return BaselineSnapshot(
            meaning=self.settings.meaning,
            keys=self._index.keys(tracked),
            columns={name: self._evidence.column(name)[tracked] for name in sorted(self._evidence.column_names)},
            counters=self._counters,
            update_ids=tuple(self._update_ids),
            level=dict(level_state or {}),
        )

    def check(self, snapshot: BaselineSnapshot) -> None:
        """Refuse a snapshot this store cannot take over.

        Raises:
            CheckpointError: it was written under settings that give its numbers another meaning.
        """
        if snapshot.meaning != self.settings.meaning or set(snapshot.columns) != self._evidence.column_names:
            raise CheckpointError(
                f"the baseline snapshot was written with {_words(snapshot.meaning)}, this run has "
                f"{_words(self.settings.meaning)}; resume with the settings it was written with"
            )

    def restore_evidence(
        self, snapshots: Sequence[BaselineSnapshot], *, numbers: NDArray[np.integer[Any]] | None = None
    ) -> None:
        """Replace all evidence by that of a snapshot, given whole or as the parts of its shards; rows stay.

        Args:
            snapshots: at least one.
            numbers: int [data sets of the snapshot], their numbers here; None: the same.

        Raises:
            CheckpointError: the parts do not belong together or to this store; nothing has changed then.
        """
        whole = join_snapshots(snapshots)
        self.check(whole)
        self._evidence.clear()
        slots = self._index.add(whole.keys)
        self._evidence.resize(len(self._index))
        columns = whole.columns
        if numbers is not None and slots.size:
            columns = columns | {"source": np.asarray(numbers)[columns["source"]]}
        self._evidence.write(slots, columns)
        self._counters = whole.counters
        self._update_ids = dict.fromkeys(whole.update_ids)
        self._last_sums = (None, None)
        self._tracked, self._v_hat_units = 0, 0
        self._count(slots, +1)

    def _last_trained(self, slots: NDArray[np.int64]) -> NDArray[np.int32]:
        """int32 [n]: policy version of the newest outcome; ``UNSEEN`` for a prompt that was warm-started at most."""
        last, visits = self._evidence.column("last_version")[slots], self._evidence.column("visits")[slots]
        return np.where(visits > 0, last, np.int32(UNSEEN))

    def _row_slots(self) -> NDArray[np.int64]:
        if len(self._rows) > 1:
            self._rows = [np.concatenate(self._rows)]
        return self._rows[0].astype(np.int64) if self._rows else np.zeros(0, dtype=np.int64)

    def _count(self, slots: NDArray[np.int64], sign: int) -> None:
        """Add (+1) or take away (-1) different ``slots`` from the tracked, and from the mean a prior may follow."""
        seen = slots[self._evidence.column("last_version")[slots] != UNSEEN]
        self._tracked += sign * int(seen.size)
        if self.settings.prior == "mean":
            self._v_hat_units += sign * int(whole_units(self._evidence.values(seen, np.zeros(seen.size), 0.0)).sum())

    def _advance(self, update: BaselineUpdate) -> None:
        counters = self._counters
        moved = update.drift if update.drift is not None else update.distance
        ema = counters.drift_ema
        if moved is not None:
            ema = moved if ema == 0.0 else (1.0 - _DRIFT_EMA) * ema + _DRIFT_EMA * moved
        step_drift = update.drift if self.settings.kl_source == "drift" else None
        self._counters = BaselineCounters(
            version=max(counters.version, update.newest_version),
            drift_total=counters.drift_total + (step_drift or 0.0),
            drift_ema=ema,
            num_updates=counters.num_updates + 1,
        )
        if update.update_id is not None:
            self._update_ids[update.update_id] = None
            if len(self._update_ids) > _REMEMBERED_UPDATES:
                del self._update_ids[next(iter(self._update_ids))]


def checked_counts(alpha: ArrayLike, beta: ArrayLike, n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Beta counts from elsewhere, float64 [n] each.

    Raises:
        ValueError: not n of them, or one is negative or not finite, or both of a prompt are 0.
    """
    a, b = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
    if a.shape != (n,) or b.shape != a.shape:
        raise ValueError(f"alpha {a.shape} and beta {b.shape} for {n} keys; give one of each per key")
    if not (np.isfinite(a + b).all() and (a >= 0).all() and (b >= 0).all() and (a + b > 0).all()):
        raise ValueError("alpha and beta must be finite, not negative and not both 0")
    return a, b


def _words(meaning: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in meaning.items())


def _columns_of(keys: Sequence[str] | KeyBatch) -> KeyBatch:
    return keys if isinstance(keys, KeyBatch) else encode_keys(keys)
