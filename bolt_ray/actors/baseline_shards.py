"""The sharded baseline as the driver sees it: a ``BaselineStore`` spread over several actors.

The key of a prompt decides its shard. A read or commit is one call per shard. Each commit goes to
every shard, also to those without an entry, so that all count the same commits and the same policy drift.

A shard that dies is restarted by Ray and restores its last acknowledged commit from its journal; the call that it was
serving is repeated by Ray and changes nothing if it had been applied.
"""

from __future__ import annotations

import itertools
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from bolt_ray.actors.baseline_shard import BaselineShard, ShardState
from bolt_ray.actors.placement import near_driver
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.ray_results import get_result
from bolt_ray.actors.stacks import waits_for
from bolt_ray.core.baseline import BaselineSettings
from bolt_ray.core.baseline.level import Level, LevelTracker
from bolt_ray.core.baseline.metrics import BaselineTotals
from bolt_ray.core.baseline.settings import level_of
from bolt_ray.core.baseline.sharded_snapshot import shard_file, write_manifest
from bolt_ray.core.baseline.snapshot import BaselineCounters
from bolt_ray.core.baseline.update import baseline_update
from bolt_ray.core.baseline.warm_start import RowKey, WarmStartReport, match_prompts, read_warm_start
from bolt_ray.core.errors import CheckpointError, RunError, StallError
from bolt_ray.core.files import fsync_path
from bolt_ray.core.keys import KeyBatch, encode_keys
from bolt_ray.core.records import BaselineReading, Outcomes, PromptColumns

_REGISTER_BATCH = 1 << 18
_POLL_S = 0.05
_JOURNAL_PREFIX = "journal-"
_COLUMNS = ("v_hat", "n_eff", "visits", "solved_streak", "last_version")

RemoteBaselineShard = ray.remote(max_restarts=-1, max_task_retries=-1)(BaselineShard)


class BaselineShards:
    """A pool of shard actors; made by ``start``, used by one thread, ended by ``close``.

    Attributes:
        timeout_s: longest wait for the result of one call; it may be changed at any time.
        processes: the shards', as of the last commit.
    """

    processes: tuple[ProcessInfo, ...] = ()

    def __init__(
        self, *, shards: Sequence[Any], settings: BaselineSettings, journal_dir: Path, timeout_s: float
    ) -> None:
        self._shards = list(shards)
        self._settings = settings
        self._journal_dir = journal_dir
        self.timeout_s = timeout_s
        self._row_shards: list[NDArray[np.uint16]] = []
        self._row_batches = 0
        self._tracker = LevelTracker(strength=settings.fixed_strength)
        self._note(self._wait({s: shard.state.remote() for s, shard in enumerate(self._shards)}, "start"))

    @classmethod
    def start(
        cls,
        *,
        num_shards: int,
        settings: BaselineSettings,
        wal_dir: str | Path,
        timeout_s: float,
        startup_s: float,
        cpus_per_shard: float,
    ) -> BaselineShards:
        """Start the actors with an empty store.

        Args:
            num_shards: number of actors.
            settings: of the store.
            wal_dir: holds the shards' journals while the pool lives, and belongs to it alone: journals
                of an earlier pool are removed. On several machines it must be storage all of them see.
            timeout_s: longest wait for the result of one call.
            startup_s: longest wait for all of them to have started, on nodes that may have to boot first.
            cpus_per_shard: CPUs each actor asks Ray for; 0 would never make a cluster grow.

        Raises:
            ValueError: ``num_shards`` is not 1 … 65535.
            StallError: the actors did not start in time.
        """
        if not 1 <= num_shards <= np.iinfo(np.uint16).max:
            raise ValueError(f"num_shards is {num_shards}; it must be 1 … 65535")
        journal_dir = _fresh_journals(Path(wal_dir).resolve())
        remote = RemoteBaselineShard.options(num_cpus=cpus_per_shard, scheduling_strategy=near_driver())
        shards = [
            remote.remote(
                settings=settings,
                shard=shard,
                num_shards=num_shards,
                journal_dir=str(journal_dir / f"shard-{shard:05d}"),
            )
            for shard in range(num_shards)
        ]
        pool = cls(shards=shards, settings=settings, journal_dir=journal_dir, timeout_s=startup_s)
        pool.timeout_s = timeout_s
        return pool

    @property
    def num_shards(self) -> int:
        return len(self._shards)

    @property
    def num_rows(self) -> int:
        """Registered rows."""
        return sum(rows.size for rows in self._row_shards)

    @property
    def counters(self) -> BaselineCounters:
        """Commits applied, newest version and drift, as of the last commit."""
        return self._counters

    @property
    def level(self) -> Level:
        """What an unseen prompt is worth now, by data set, over all shards; every shard is told it with each call."""
        return level_of(self._settings, self._tracker, self._tracked, self._v_hat_units)

    def register(
        self, keys: Iterable[str], sources: Iterable[str] | None = None, features: NDArray[np.uint16] | None = None
    ) -> int:
        """Append rows of the data set, in order; returns the number of the first of them, counted from 0.

        Args:
            keys: n keys.
            sources: the names of the data sets they are of, n; None: of the unnamed one.
            features: uint16 [n, NUM_FEATURES], of their texts (``prompt_features``); None: unknown.

        Raises:
            ValueError: data sets are named after the first commit, which may have counted their prompts elsewhere.
        """
        first = self.num_rows
        if sources is not None and self._counters.num_updates:
            raise ValueError("prompts of named data sets came after the first commit; register them before it")
        if features is not None and self._settings.learns_texts:
            self._tracker.learn_texts()
        remaining = iter(keys)
        names = None if sources is None else iter(sources)
        while chunk := list(itertools.islice(remaining, _REGISTER_BATCH)):
            batch = encode_keys(chunk)
            named = None if names is None else list(itertools.islice(names, len(chunk)))
            numbers = np.zeros(len(chunk), dtype=np.uint16) if named is None else self._tracker.numbers(named)
            places = _places(batch, self.num_shards)
            start = self.num_rows - first
            looks = None if features is None else features[start : start + len(chunk)]
            calls = {
                s: self._shards[s].register.remote(
                    self._row_batches, batch.take(where), numbers[where], None if looks is None else looks[where]
                )
                for s, where in places.items()
            }
            self._wait(calls, "register prompts")
            self._row_batches += 1
            self._row_shards.append(batch.shards(self.num_shards).astype(np.uint16))
        return first

    def read(self, keys: Sequence[str], version: int | None = None) -> BaselineReading:
        """What is known of n prompts, in their order.

        Args:
            keys: n keys.
            version: policy version of the reader, N_eff decays up to it; None: not beyond each prompt's
                newest outcome.
        """
        batch = encode_keys(keys)
        places = {s: where for s, where in _places(batch, self.num_shards).items() if where.size}
        level = self.level
        calls = {s: self._shards[s].read.remote(batch.take(where), version, level) for s, where in places.items()}
        return _joined(self._wait(calls, "read baselines"), places, num_prompts=len(batch))

    def commit(self, outcomes: Outcomes, *, update_id: str, drift: float | None = None) -> None:
        """Apply the outcomes of one step once; see ``BaselineStore.update_many``.

        After an error, call it again with the same arguments: shards that have applied the commit ignore it.

        Args:
            update_id: a second commit under the same id changes nothing.
            drift: how far the step moved the policy, mean token |Δ log π|; None if it was not measured.

        Raises:
            ValueError: an outcome is impossible; no shard has changed then.
            StallError: a shard did not answer in time.
        """
        update = baseline_update(
            outcomes.keys,
            outcomes.reward_sums,
            outcomes.counts,
            versions=outcomes.versions,
            known_version=self._counters.version,
            update_id=update_id,
            drift=drift,
            level=self.level,
        )
        places = _places(update.keys, self.num_shards)
        calls = {s: shard.commit.remote(update.take(places[s])) for s, shard in enumerate(self._shards)}
        known = self._counters
        states = self._wait(calls, f"commit {update_id!r}")
        self._note(states)
        if self._counters != known:  # not a commit that all of them had before
            parts = [state.sums for state in states.values() if state.sums is not None]
            assert len(parts) == self.num_shards, "every shard knows what its last commit added"
            self._tracker.take(sum(parts[1:], start=parts[0]))

    def columns(self, version: int | None = None) -> PromptColumns:
        """The columns that the curriculum reads of every registered row, in row order.

        Args:
            version: N_eff is given as of this policy version; None is the newest committed.
        """
        rows = self._rows()
        at = self._counters.version if version is None else version
        level = self.level
        calls = {s: shard.columns.remote(at, level) for s, shard in enumerate(self._shards)}
        merged: dict[str, NDArray[Any]] = {
            name: np.empty(rows.size, np.float32 if name in ("v_hat", "n_eff") else np.int32) for name in _COLUMNS
        }
        for s, part in self._wait(calls, "give their columns").items():
            if part is not None:
                where = rows == s
                for name in _COLUMNS:
                    merged[name][where] = getattr(part, name)
        return PromptColumns(**merged)

    def metrics(self, version: int | None = None) -> dict[str, float]:
        """``baseline/*`` and ``curriculum/*`` of all shards, N_eff as of ``version`` (None: the newest)."""
        at = self._counters.version if version is None else version
        level = self.level
        calls = {s: shard.totals.remote(at, level) for s, shard in enumerate(self._shards)}
        totals = sum(self._wait(calls, "sum their metrics").values(), start=BaselineTotals())
        return (
            totals.baseline_metrics(level=level, drift_ema=self._counters.drift_ema)
            | totals.curriculum_metrics(level=level)
            | self._tracker.metrics(level)
        )

    def snapshot(self, directory: str | Path, *, idle: Callable[[], None] = lambda: None) -> None:
        """Write the whole store to a new directory, first under another name; ``idle`` meanwhile may read.

        Raises:
            StorageError: a shard could not write.
            CheckpointError: the directory exists and is not empty.
        """
        target = Path(directory).resolve()
        if target.exists() and any(target.iterdir()):
            raise CheckpointError(f"{target}: not empty; write the baseline snapshot to a new directory")
        aside = target.with_name(f".{target.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        calls = {
            s: shard.save.remote(str(shard_file(aside, s, self.num_shards)), self._tracker.state_dict())
            for s, shard in enumerate(self._shards)
        }
        states = self._wait(calls, f"write their snapshots to {target}", idle=idle)
        if any(state.counters != self._counters for state in states.values()):
            raise CheckpointError("the shards hold a commit that was not finished; repeat it before a snapshot")
        write_manifest(aside, num_shards=self.num_shards, counters=self._counters)
        aside.replace(target)
        fsync_path(target.parent)

    def restore(self, directory: str | Path) -> None:
        """Replace all evidence by that of a snapshot, written by any number of shards; rows stay.

        Raises:
            CheckpointError: the snapshot cannot be used; no shard has changed then.
        """
        source = str(Path(directory).resolve())
        calls = {s: shard.stage.remote(source) for s, shard in enumerate(self._shards)}
        level_state = self._wait(calls, f"read the snapshot {source}")[0]
        numbers = self._tracker.load_state_dict(level_state)
        calls = {s: shard.adopt.remote(source, numbers) for s, shard in enumerate(self._shards)}
        self._note(self._wait(calls, f"take over the snapshot {source}"))

    def warm_start(
        self, path: str | Path, *, row_key: RowKey | None = None, allow_pickle: bool = False
    ) -> WarmStartReport:
        """Start from a warm-start file; see ``BaselineStore.load_from_json``.

        Raises:
            CheckpointError: the file cannot be used or fits no prompt; nothing has changed then.
        """
        file = read_warm_start(
            Path(path),
            strength=self._settings.warm_start_strength,
            reward_range=self._settings.scaled_from,
            allow_pickle=allow_pickle,
        )
        rows_of = partial(self._each_prompt, "rows_of")
        found = match_prompts(file, rows_of=rows_of, num_rows=self.num_rows, row_key=row_key)
        sources = self._each_prompt("source_numbers", found.keys)
        means = self._tracker.warm_start(sources, found.alpha, found.beta)
        batch = encode_keys(found.keys)
        calls = {
            s: self._shards[s].seed.remote(batch.take(where), found.alpha[where], found.beta[where], means[where])
            for s, where in _places(batch, self.num_shards).items()
        }
        self._note(self._wait(calls, f"take the warm start {path}"))
        return found.report

    def close(self) -> None:
        """End the actors and remove their journals; what ``snapshot`` has not written is lost."""
        for shard in self._shards:
            ray.kill(shard)
        self._shards = []
        shutil.rmtree(self._journal_dir, ignore_errors=True)

    def _rows(self) -> NDArray[np.uint16]:
        """The shard of each row."""
        if len(self._row_shards) > 1:
            self._row_shards = [np.concatenate(self._row_shards)]
        return self._row_shards[0] if self._row_shards else np.zeros(0, dtype=np.uint16)

    def _each_prompt(self, method: str, keys: Sequence[str]) -> NDArray[np.int64]:
        """int64 [n]: what ``method`` of each prompt's shard says of it."""
        batch = encode_keys(keys)
        places = {s: where for s, where in _places(batch, self.num_shards).items() if where.size}
        calls = {s: getattr(self._shards[s], method).remote(batch.take(where)) for s, where in places.items()}
        answers = np.zeros(len(batch), dtype=np.int64)
        for s, found in self._wait(calls, "look up prompts").items():
            answers[places[s]] = found
        return answers

    def _note(self, states: Mapping[int, ShardState]) -> None:
        """Update the driver's counters once all shards have answered."""
        counters = {state.counters for state in states.values()}
        if len(counters) != 1:
            raise RunError(f"baseline shards are at different commits: {sorted(map(str, counters))}")
        (self._counters,) = counters
        self.processes = tuple(state.process for state in states.values())
        self._tracked = sum(state.tracked for state in states.values())
        self._v_hat_units = sum(state.v_hat_units for state in states.values())

    def _wait(self, calls: Mapping[int, Any], doing: str, *, idle: Callable[[], None] | None = None) -> dict[int, Any]:
        """The results by shard number."""
        return _results(calls, doing, timeout_s=self.timeout_s, processes=self.processes, idle=idle)


def _fresh_journals(root: Path) -> Path:
    """A new directory for the journals of one pool; those of earlier pools are removed."""
    for left_over in root.glob(_JOURNAL_PREFIX + "*"):
        shutil.rmtree(left_over)
    directory = root / f"{_JOURNAL_PREFIX}{uuid.uuid4().hex}"
    directory.mkdir(parents=True)
    return directory


def _places(keys: KeyBatch, num_shards: int) -> dict[int, NDArray[np.int64]]:
    """Where among ``keys`` those of each shard are, by shard number."""
    home = keys.shards(num_shards)
    return {s: np.flatnonzero(home == s) for s in range(num_shards)}


def _joined(
    parts: Mapping[int, BaselineReading], places: Mapping[int, NDArray[np.int64]], *, num_prompts: int
) -> BaselineReading:
    """The shards' readings as one, in the order of the keys."""
    joined = BaselineReading(
        v_hat=np.empty(num_prompts),
        n_eff=np.empty(num_prompts),
        last_version=np.empty(num_prompts, dtype=np.int64),
        visits=np.empty(num_prompts, dtype=np.int64),
    )
    for s, part in parts.items():
        for name in ("v_hat", "n_eff", "last_version", "visits"):
            getattr(joined, name)[places[s]] = getattr(part, name)
    return joined


def _results(
    calls: Mapping[int, Any],
    doing: str,
    *,
    timeout_s: float,
    processes: Sequence[ProcessInfo],
    idle: Callable[[], None] | None = None,
) -> dict[int, Any]:
    refs = list(calls.values())
    if not refs:
        return {}
    deadline = time.monotonic() + timeout_s
    while True:
        left = max(0.0, deadline - time.monotonic())
        _, pending = ray.wait(refs, num_returns=len(refs), timeout=left if idle is None else min(left, _POLL_S))
        if not pending or idle is None or not left:
            break
        idle()
    if pending:
        late = [s for s, ref in calls.items() if ref in pending]
        told = waits_for(
            f"the baseline shards to {doing}", waited_s=timeout_s, processes=[processes[s] for s in late if processes]
        )
        raise StallError(
            f"{told}; no answer from shard {', '.join(map(str, late))} (deadlines.baseline_s sets this limit)"
        )
    try:
        return dict(zip(calls, get_result(refs, timeout_s=timeout_s), strict=True))
    except ray.exceptions.GetTimeoutError as error:
        raise StallError(
            f"waited {timeout_s:g} s to fetch the results of the baseline shards, asked to {doing}"
        ) from error
    except ray.exceptions.RayActorError as error:
        raise RunError(f"a baseline shard, asked to {doing}, is lost for good: {error}") from error
