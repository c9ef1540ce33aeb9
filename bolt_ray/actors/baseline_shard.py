"""One shard of the baseline: the values of its prompts and their journal in an actor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from bolt_ray.actors.baseline_journal import ShardJournal
from bolt_ray.actors.processes import ProcessInfo, ProcessMonitor
from bolt_ray.core.baseline import BaselineSettings
from bolt_ray.core.baseline.level import CommitSums, Level
from bolt_ray.core.baseline.metrics import BaselineTotals
from bolt_ray.core.baseline.sharded_snapshot import read_sharded_snapshot
from bolt_ray.core.baseline.snapshot import BaselineCounters, BaselineSnapshot, write_snapshot
from bolt_ray.core.baseline.update import BaselineUpdate
from bolt_ray.core.baseline.values import PromptValues
from bolt_ray.core.digests import storage_errors
from bolt_ray.core.keys import KeyBatch
from bolt_ray.core.records import BaselineReading, PromptColumns


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardState:
    """The result of every call that changes a shard.

    Attributes:
        counters: the same on all shards of a store that are at the same commit.
        tracked: the shard's prompts with evidence.
        v_hat_units: Σ v̂ over them in whole units, where the prior follows it.
        process: the shard's.
        sums: what the shard's part of the last commit adds to the level; None if that was an earlier one.
    """

    counters: BaselineCounters
    tracked: int
    v_hat_units: int
    process: ProcessInfo
    sums: CommitSums | None = None


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
        self._store = PromptValues(settings)
        restarted = bool(ray.get_runtime_context().was_current_actor_reconstructed)
        self._journal = ShardJournal(Path(journal_dir), self._store, must_exist=restarted)
        self._monitor = ProcessMonitor("shard", f"baseline-shard-{shard}")
        self._staged: tuple[str, BaselineSnapshot] | None = None

    def __repr__(self) -> str:
        """What Ray shows."""
        return f"baseline-shard-{self._shard}"

    def state(self) -> ShardState:
        tracked, units = self._store.v_hat_total
        process = self._monitor.info()
        return ShardState(counters=self._store.counters, tracked=tracked, v_hat_units=units, process=process)

    def register(
        self, batch: int, keys: KeyBatch, sources: NDArray[np.uint16], features: NDArray[np.uint16] | None = None
    ) -> int:
        """Append batch number ``batch`` of the data set's rows; the rows this shard has now."""
        self._journal.register(batch, keys, sources, features)
        return self._store.num_rows

    def source_numbers(self, keys: KeyBatch) -> NDArray[np.int64]:
        return self._store.source_numbers(keys)

    def rows_of(self, keys: KeyBatch) -> NDArray[np.int64]:
        return self._store.rows_of(keys)

    def read(self, keys: KeyBatch, version: int | None, level: Level) -> BaselineReading:
        return self._store.read(keys, version, level=level)

    def commit(self, update: BaselineUpdate) -> ShardState:
        sums = self._journal.commit(update)
        return replace(self.state(), sums=sums)

    def seed(
        self, keys: KeyBatch, alpha: NDArray[np.float64], beta: NDArray[np.float64], means: NDArray[np.float64]
    ) -> ShardState:
        self._journal.seed(keys, alpha, beta, means)
        return self.state()

    def columns(self, version: int, level: Level) -> PromptColumns | None:
        """The shard's rows in the order of registration, None if it has none."""
        return self._store.columns(version, level=level) if self._store.num_rows else None

    def totals(self, version: int, level: Level) -> BaselineTotals:
        return self._store.totals(version, level=level)

    def save(self, path: str, level_state: dict[str, Any]) -> ShardState:
        """Write the shard's snapshot and the store's level to the file ``path``, and start a new journal."""
        with storage_errors("the baseline's snapshot"):
            write_snapshot(Path(path), self._store.snapshot(level_state))
        self._journal.compact()
        return self.state()

    def stage(self, directory: str) -> dict[str, Any]:
        """Read this shard's part of a snapshot and check it; nothing changes yet. Returns the level kept with it."""
        part = read_sharded_snapshot(Path(directory), shard=self._shard, num_shards=self._num_shards)
        self._store.check(part)
        self._staged = (directory, part)
        return part.level

    def adopt(self, directory: str, numbers: NDArray[np.uint16]) -> ShardState:
        """Replace all evidence by what was staged; ``numbers``: of the snapshot's data sets here."""
        if self._staged is None or self._staged[0] != directory:
            self.stage(directory)  # restarted since
        assert self._staged is not None
        self._store.restore_evidence([self._staged[1]], numbers=numbers)
        self._staged = None
        self._journal.compact()
        return self.state()
