"""The values of all prompts in columns: what one shard holds, and how a commit changes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bolt_ray.core.baseline.evidence import UNSEEN, EvidenceTable, Prior
from bolt_ray.core.baseline.key_index import ABSENT, KeyIndex
from bolt_ray.core.baseline.metrics import BaselineTotals, value_totals
from bolt_ray.core.baseline.settings import V_HAT_UNITS, BaselineSettings, prior_of
from bolt_ray.core.baseline.snapshot import BaselineCounters, BaselineSnapshot, join_snapshots
from bolt_ray.core.baseline.update import BaselineUpdate
from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.keys import KeyBatch, encode_keys
from bolt_ray.core.records import PromptColumns

_REMEMBERED_UPDATES = 10_000
_DRIFT_EMA = 0.1


class PromptValues:
    """Values of any number of prompts, in columns; at most 64 bytes per prompt besides its key.

    A prompt is *tracked* once it has evidence. For one that is only registered, or unknown, reads give the prior.
    Not safe to use from several threads at once.
    """

    def __init__(self, settings: BaselineSettings) -> None:
        self.settings = settings
        self._index = KeyIndex()
        self._evidence = EvidenceTable(
            forgetting=self.settings.forgetting,
            rho_min=self.settings.rho_min,
            rho_max=self.settings.rho_max,
            d_half=self.settings.d_half,
            prior_varies=self.settings.prior == "mean",
        )
        self._rows: list[NDArray[np.int32]] = []
        self._counters = BaselineCounters()
        self._update_ids: dict[str, None] = {}
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
        """(tracked prompts, Σ v̂ in whole units); summed over shards it gives ``mean_prior`` of them all."""
        return self._tracked, self._v_hat_units

    @property
    def mean_v_hat(self) -> float:
        """Mean v̂ of the tracked prompts; the prior's if there are none."""
        return self._v_hat_units / V_HAT_UNITS / self._tracked if self._tracked else self.prior.v_hat

    @property
    def prior(self) -> Prior:
        """The prior of an unseen prompt at this moment."""
        return prior_of(self.settings, *self.v_hat_total)

    def register(self, keys: Sequence[str] | KeyBatch) -> int:
        """Append rows of the data set; returns the number of the first of them, counted from 0.

        Two rows may have one key; they share its evidence. Registering a known key leaves its evidence alone.
        """
        first = self.num_rows
        batch = _columns_of(keys)
        if len(self._index) == 0:
            self._index.reserve(len(batch))
        slots = self._index.add(batch)
        self._evidence.resize(len(self._index), exactly=first == 0)
        self._rows.append(slots.astype(np.int32))
        return first

    def rows_of(self, keys: Sequence[str] | KeyBatch) -> NDArray[np.int64]:
        """int64 [n]: how many registered rows have each key."""
        slots = self._index.find(_columns_of(keys).digests)
        per_slot = np.bincount(self._row_slots(), minlength=len(self._index) + 1)
        return np.where(slots == ABSENT, 0, per_slot[slots])

    def get_many(
        self, keys: Sequence[str] | KeyBatch, version: int | None = None, *, prior: Prior | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Values and effective counts of n prompts, in their order.

        Args:
            keys: n keys.
            version: policy version of the reader; under ``event`` N_eff is decayed up to it. None: as it
                stood at each prompt's newest outcome.
            prior: in place of the store's own prior.

        Returns:
            v̂, float64 [n] in [0, 1]; N_eff, float64 [n].
        """
        prior = prior or self.prior
        slots = self._index.find(_columns_of(keys).digests)
        known = slots != ABSENT
        v_hat = np.full(slots.size, prior.v_hat)
        n_eff = np.full(slots.size, prior.strength)
        v_hat[known] = self._evidence.v_hat(slots[known], prior)
        n_eff[known] = self._evidence.n_eff(slots[known], prior, version)
        return v_hat, n_eff

    def has_applied(self, update_id: str | None) -> bool:
        """Whether a commit of this id has been taken."""
        return update_id in self._update_ids

    def apply(self, update: BaselineUpdate) -> bool:
        """Take a commit that has been checked; False if its id had been applied."""
        if self.has_applied(update.update_id):
            return False
        batch_distance = self.settings.kl_source == "batch" and update.distance is None
        if batch_distance and self.settings.forgetting == "kl":
            update = replace(update, distance=update.drift or 0.0)
        if len(update.keys):
            prior = self.prior if update.prior is None else Prior(alpha=update.prior[0], beta=update.prior[1])
            slots = self._index.add(update.keys)
            self._evidence.resize(len(self._index))
            changed, group = np.unique(slots, return_inverse=True)
            self._count(changed, -1)
            self._evidence.apply(changed, group, update, prior=prior, drift_total=self._counters.drift_total)
            self._count(changed, +1)
        self._advance(update)
        return True

    def seed(self, keys: Sequence[str] | KeyBatch, alpha: ArrayLike, beta: ArrayLike) -> None:
        """Set evidence from elsewhere, dated to policy version 0; visited prompts keep their own.

        Args:
            keys: n different keys.
            alpha, beta: [n], not negative, not both 0.

        Raises:
            ValueError: a count is impossible.
        """
        batch = _columns_of(keys)
        a, b = np.asarray(alpha, dtype=np.float64), np.asarray(beta, dtype=np.float64)
        if a.shape != (len(batch),) or b.shape != a.shape:
            raise ValueError(f"alpha {a.shape} and beta {b.shape} for {len(batch)} keys; give one of each per key")
        if not (np.isfinite(a + b).all() and (a >= 0).all() and (b >= 0).all() and (a + b > 0).all()):
            raise ValueError("alpha and beta must be finite, not negative and not both 0")
        slots = self._index.add(batch)
        self._evidence.resize(len(self._index))
        new = self._evidence.column("visits")[slots] == 0
        slots = slots[new]
        self._count(slots, -1)
        self._evidence.seed(slots, a[new], b[new], version=0, drift_total=self._counters.drift_total)
        self._count(slots, +1)

    def columns(self, version: int | None = None, *, prior: Prior | None = None) -> PromptColumns:
        """What the curriculum reads of every registered row; of every known key if none is registered.

        Args:
            version: N_eff is given as of this policy version; None is the newest known.
            prior: in place of the store's own prior.
        """
        prior = prior or self.prior
        slots = self._row_slots() if self._rows else np.arange(len(self._index))
        visits = self._evidence.column("visits")[slots]
        at = self._counters.version if version is None else version
        return PromptColumns(
            v_hat=self._evidence.v_hat(slots, prior).astype(np.float32),
            n_eff=self._evidence.n_eff(slots, prior, at).astype(np.float32),
            visits=visits,
            solved_streak=self._evidence.column("solved_streak")[slots],
            last_version=np.where(visits > 0, self._evidence.column("last_version")[slots], np.int32(-1)),
        )

    def totals(self, version: int | None = None) -> BaselineTotals:
        """The sums the metrics are made of, N_eff as of ``version`` (None: the newest known)."""
        prior = self.prior
        tracked = np.flatnonzero(self._evidence.column("last_version") != UNSEEN)
        at = self._counters.version if version is None else version
        visits = self._evidence.column("visits")
        rows = self._row_slots()
        return replace(
            value_totals(
                self._evidence.v_hat(tracked, prior),
                self._evidence.n_eff(tracked, prior, at),
                visits[tracked],
            ),
            rows=rows.size,
            visited_rows=int((visits[rows] > 0).sum()),
            cold_rows=int((self._evidence.column("last_version")[rows] == UNSEEN).sum()),
        )

    def snapshot(self) -> BaselineSnapshot:
        """The evidence of all tracked prompts as it is now; later updates do not change it."""
        tracked = np.flatnonzero(self._evidence.column("last_version") != UNSEEN)
        return BaselineSnapshot(
            meaning=self.settings.meaning,
            keys=self._index.keys(tracked),
            columns={name: self._evidence.column(name)[tracked] for name in sorted(self._evidence.column_names)},
            counters=self._counters,
            update_ids=tuple(self._update_ids),
        )

    def check(self, snapshot: BaselineSnapshot) -> None:
        """Refuse a snapshot this store cannot take over.

        Raises:
            CheckpointError: it was written under settings that give its numbers another meaning.
        """
        if snapshot.meaning != self.settings.meaning or set(snapshot.columns) != self._evidence.column_names:
            raise CheckpointError(
                f"the baseline snapshot was written with {snapshot.meaning}, this run has "
                f"{self.settings.meaning}; resume with the settings it was written with"
            )

    def restore(self, snapshots: Sequence[BaselineSnapshot]) -> None:
        """Replace all evidence by that of a snapshot, given whole or as the parts of its shards; rows stay.

        Raises:
            CheckpointError: the parts do not belong together or to this store; nothing has changed then.
        """
        whole = join_snapshots(snapshots)
        self.check(whole)
        self._evidence.clear()
        slots = self._index.add(whole.keys)
        self._evidence.resize(len(self._index))
        self._evidence.write(slots, whole.columns)
        self._counters = whole.counters
        self._update_ids = dict.fromkeys(whole.update_ids)
        self._tracked, self._v_hat_units = 0, 0
        self._count(slots, +1)

    def _row_slots(self) -> NDArray[np.int64]:
        if len(self._rows) > 1:
            self._rows = [np.concatenate(self._rows)]
        return self._rows[0].astype(np.int64) if self._rows else np.zeros(0, dtype=np.int64)

    def _count(self, slots: NDArray[np.int64], sign: int) -> None:
        """Add (+1) or take away (-1) what different ``slots`` contribute to the mean of v̂."""
        seen = slots[self._evidence.column("last_version")[slots] != UNSEEN]
        units = np.rint(self._evidence.v_hat(seen, Prior(alpha=1.0, beta=1.0)) * V_HAT_UNITS)
        self._tracked += sign * int(seen.size)
        self._v_hat_units += sign * int(units.astype(np.int64).sum())

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


def _columns_of(keys: Sequence[str] | KeyBatch) -> KeyBatch:
    return keys if isinstance(keys, KeyBatch) else encode_keys(keys)
