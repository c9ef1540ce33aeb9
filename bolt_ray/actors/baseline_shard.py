"""One shard of the baseline: a ``BaselineStore`` and its journal in an actor."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray
from ray.util.metrics import Gauge

from bolt_ray.actors.baseline_journal import ShardJournal
from bolt_ray.core.baseline import BaselineSettings, BaselineStore
from bolt_ray.core.baseline.evidence import Prior
from bolt_ray.core.baseline.metrics import BaselineTotals
from bolt_ray.core.baseline.sharded_snapshot import read_sharded_snapshot
from bolt_ray.core.baseline.snapshot import BaselineCounters, BaselineSnapshot
from bolt_ray.core.baseline.update import BaselineUpdate
from bolt_ray.core.keys import KeyBatch
from bolt_ray.core.records import PromptColumns


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardState:
    """The result of every call that changes a shard.

    Attributes:
        counters: the same on all shards of a store that are at the same commit.
        tracked: the shard's prompts with evidence.
        v_hat_units: Σ v̂ over them in whole units, see ``core.baseline.settings``.
    """

    counters: BaselineCounters
    tracked: int
    v_hat_units: int


class BaselineShard:
    """The actor of one shard. Every method may safely be called again with the same arguments.

    Args:
        settings: of the store.
        shard, num_shards: which one of how many.
        journal_dir: where its journal is, also after a restart.

    Raises:
        CheckpointError: restarted, and its journal is lost or damaged.
    """

    def __init__(self, *, settings: BaselineSettings, shard: int, num_shards: int, journal_dir: str) -> None:
        self._shard = shard
        self._num_shards = num_shards
        self._store = BaselineStore(settings)
        restarted = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        self._journal = ShardJournal(Path(journal_dir), self._store, must_exist=restarted)
        self._staged: tuple[str, BaselineSnapshot] | None = None
        self._prompts_gauge = Gauge(
            "bolt_ray_baseline_prompts", description="Prompts with evidence", tag_keys=("shard",)
        )
        self._v_hat_gauge = Gauge(
            "bolt_ray_baseline_mean_v_hat", description="Mean value of the prompts", tag_keys=("shard",)
        )

    def pid(self) -> int:
        """The process the shard runs in."""
        return os.getpid()

    def state(self) -> ShardState:
        tracked, units = self._store.v_hat_total
        tags = {"shard": str(self._shard)}
        self._prompts_gauge.set(tracked, tags=tags)
        self._v_hat_gauge.set(self._store.mean_v_hat, tags=tags)
        return ShardState(counters=self._store.counters, tracked=tracked, v_hat_units=units)

    def register(self, batch: int, keys: KeyBatch) -> int:
        """Append batch number ``batch`` of the data set's rows; the rows this shard has now."""
        self._journal.register(batch, keys)
        return self._store.num_rows

    def rows_of(self, keys: KeyBatch) -> NDArray[np.int64]:
        return self._store.rows_of(keys)

    def read(
        self, keys: KeyBatch, version: int | None, prior: Prior
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self._store.get_many(keys, version, prior=prior)

    def commit(self, update: BaselineUpdate) -> ShardState:
        self._journal.commit(update)
        return self.state()

    def seed(self, keys: KeyBatch, alpha: NDArray[np.float64], beta: NDArray[np.float64]) -> ShardState:
        self._journal.seed(keys, alpha, beta)
        return self.state()

    def columns(self, version: int, prior: Prior) -> PromptColumns | None:
        """The shard's rows in the order of registration, None if it has none."""
        return self._store.columns(version, prior=prior) if self._store.num_rows else None

    def totals(self, version: int) -> BaselineTotals:
        return self._store.totals(version)

    def save(self, path: str) -> ShardState:
        """Write the shard's snapshot to the file ``path``, and start a new journal."""
        self._store.save(path)
        self._journal.compact()
        return self.state()

    def stage(self, directory: str) -> None:
        """Read this shard's part of a snapshot and check it; nothing changes yet."""
        part = read_sharded_snapshot(Path(directory), shard=self._shard, num_shards=self._num_shards)
        self._store.check(part)
        self._staged = (directory, part)

    def adopt(self, directory: str) -> ShardState:
        """Replace all evidence by what was staged."""
        if self._staged is None or self._staged[0] != directory:
            self.stage(directory)  # restarted since
        assert self._staged is not None
        self._store.restore([self._staged[1]])
        self._staged = None
        self._journal.compact()
        return self.state()
