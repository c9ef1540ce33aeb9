from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray._raylet import Config

from bolt_ray.actors.baseline_shards import BaselineShards
from bolt_ray.core.baseline import BaselineSettings, BaselineStore
from bolt_ray.core.baseline.prompt_features import prompt_features
from bolt_ray.core.baseline.sharded_snapshot import read_sharded_snapshot
from bolt_ray.core.errors import CheckpointError, StallError
from bolt_ray.core.records import Outcomes
from bolt_ray.training.settings import DeadlineSettings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

KEYS = [f"{i:032x}"[::-1] for i in range(100)] + [f"own-{i}" for i in range(100)]
SOURCES = ["rare" if i % 7 == 0 else "common" for i in range(200)]
FEATURES = prompt_features([f"{i % 10} + {i // 10} =" for i in range(200)])
SETTINGS = BaselineSettings()


def outcomes(number: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(11)
    made = []
    for step in range(number):
        picked = rng.integers(0, len(KEYS), size=40)
        made.append(
            {
                "update_id": f"step-{step}",
                "keys": [KEYS[i] for i in picked],
                "reward_sums": rng.random(40) * 2,
                "counts": np.full(40, 2),
                "versions": np.maximum(step - rng.integers(0, 2, size=40), 0),
                "drift": float(rng.random() * 0.01),
            }
        )
    return made


def commit_to(
    pool: BaselineShards,
    *,
    update_id: str,
    keys: Sequence[str],
    reward_sums: Any,
    counts: Any,
    versions: Any,
    drift: float | None = None,
) -> None:
    columns = Outcomes(
        keys=tuple(keys),
        reward_sums=np.asarray(reward_sums, dtype=np.float64),
        counts=np.asarray(counts, dtype=np.int64),
        versions=np.asarray(versions, dtype=np.int64),
    )
    pool.commit(columns, update_id=update_id, drift=drift)


def assert_same(shards: BaselineShards, store: BaselineStore) -> None:
    """Every value, column and count is the very same number."""
    for version in (None, 40):
        mine, theirs = shards.read(KEYS, version), store.read(KEYS, version, level=store.level)
        for name in ("v_hat", "n_eff", "last_version", "visits"):
            assert np.array_equal(getattr(mine, name), getattr(theirs, name)), name
    for name in ("v_hat", "n_eff", "visits", "solved_streak", "last_version"):
        assert np.array_equal(getattr(shards.columns(), name), getattr(store.columns(), name)), name
    assert (shards.counters, shards.level) == (store.counters, store.level)
    assert shards.metrics() == pytest.approx(store.metrics() | store.get_curriculum_stats(), abs=1e-12)


def fresh_store(settings: BaselineSettings = SETTINGS) -> BaselineStore:
    store = BaselineStore(settings)
    store.register(KEYS, SOURCES, FEATURES)
    return store


def start_shards(count: int, wal_dir: Path, *, settings: BaselineSettings = SETTINGS) -> BaselineShards:
    return BaselineShards.start(
        num_shards=count, settings=settings, wal_dir=wal_dir, timeout_s=60.0, startup_s=60.0, cpus_per_shard=0.1
    )


@pytest.fixture
def shards(tmp_path: Path) -> Iterator[BaselineShards]:
    pool = start_shards(2, tmp_path / "wal")
    assert pool.register(iter(KEYS), iter(SOURCES), FEATURES) == 0
    yield pool
    pool.close()
    assert list((tmp_path / "wal").iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [SETTINGS, BaselineSettings(estimator="beta", forgetting="event", prior="mean")],
    ids=["two_level", "beta"],
)
def test_shards_equal_one_store(ray_cluster: None, tmp_path: Path, settings: BaselineSettings) -> None:
    shards = start_shards(2, tmp_path, settings=settings)
    shards.register(KEYS, SOURCES, FEATURES)
    store = fresh_store(settings)
    assert_same(shards, store)
    for commit in outcomes(6):
        commit_to(shards, **commit)
        store.update_many(**commit)
        assert_same(shards, store)
    commit_to(shards, **outcomes(6)[-1])
    commit_to(shards, update_id="empty", keys=[], reward_sums=[], counts=[], versions=[], drift=0.5)
    store.update_many([], [], [], drift=0.5, update_id="empty")
    assert_same(shards, store)
    with pytest.raises(ValueError, match="no evidence"):
        commit_to(shards, update_id="nan", keys=["a"], reward_sums=[np.nan], counts=[1], versions=[0])
    assert shards.register(["another", KEYS[0]]) == len(KEYS)
    store.register(["another", KEYS[0]])
    assert_same(shards, store)
    nothing = shards.read([])
    assert (nothing.v_hat.size, nothing.n_eff.size, nothing.last_version.size) == (0, 0, 0)
    shards.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def log_bytes(wal: Path, shard: int) -> int:
    """What a shard has written to its journal's log."""
    return sum(path.stat().st_size for path in wal.glob(f"journal-*/shard-{shard:05d}/wal-*.log"))


def pids_of(shards: BaselineShards) -> list[int]:
    return [process.pid for process in shards.processes]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_shard_killed_within_a_commit_loses_and_doubles_nothing(
    shards: BaselineShards, tmp_path: Path, killed: int
) -> None:
    """The commit is held half-way: the other shard has it in its log, the stopped one has not looked at it."""
    store, commits = fresh_store(), outcomes(3)
    commit_to(shards, **commits[0])
    first_pids = pids_of(shards)
    other = 1 - killed
    before = [log_bytes(tmp_path / "wal", shard) for shard in (0, 1)]
    os.kill(first_pids[killed], signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        try:
            committing = pool.submit(lambda: commit_to(shards, **commits[1]))
            until(lambda: log_bytes(tmp_path / "wal", other) > before[other])
            assert not committing.done()
            assert log_bytes(tmp_path / "wal", killed) == before[killed]
        finally:
            os.kill(first_pids[killed], signal.SIGKILL)
        committing.result(timeout=120)
    commit_to(shards, **commits[1])
    commit_to(shards, **commits[2])
    for commit in commits:
        store.update_many(**commit)
    assert_same(shards, store)
    assert [process.name for process in shards.processes] == ["baseline-shard-0", "baseline-shard-1"]
    assert all(process.host_bytes > 2**20 for process in shards.processes)
    pids = pids_of(shards)
    assert pids[killed] != first_pids[killed]
    assert pids[other] == first_pids[other]


def test_shards_killed_between_commits_lose_and_double_nothing(shards: BaselineShards) -> None:
    store, commits = fresh_store(), outcomes(4)
    first_pids = pids_of(shards)
    for commit in commits[:2]:
        commit_to(shards, **commit)
    for pid in first_pids:
        os.kill(pid, signal.SIGKILL)
    commit_to(shards, **commits[1])
    for commit in commits[2:]:
        commit_to(shards, **commit)
    for commit in commits:
        store.update_many(**commit)
    assert_same(shards, store)
    assert not set(pids_of(shards)) & set(first_pids)


def test_a_snapshot_goes_into_any_number_of_shards(shards: BaselineShards, tmp_path: Path) -> None:
    store, commits = fresh_store(), outcomes(10)
    for commit in commits[:5]:
        commit_to(shards, **commit)
        store.update_many(**commit)
    shards.snapshot(tmp_path / "half")
    assert sorted(path.name for path in (tmp_path / "half").iterdir()) == [
        "manifest.json",
        "shard-00000-of-00002.npz",
        "shard-00001-of-00002.npz",
    ]
    assert len(read_sharded_snapshot(tmp_path / "half").keys) == len(store)
    with pytest.raises(CheckpointError, match="not empty"):
        shards.snapshot(tmp_path / "half")
    commit_to(shards, **commits[9])
    three = start_shards(3, tmp_path / "wal3")
    three.register(KEYS, SOURCES, FEATURES)
    commit_to(three, **commits[8])
    for pool in (shards, three):
        pool.restore(tmp_path / "half")
        assert_same(pool, store)
    for pid in pids_of(three):
        os.kill(pid, signal.SIGKILL)
    for commit in commits[5:]:
        for pool in (shards, three):
            commit_to(pool, **commit)
        store.update_many(**commit)
    for pool in (shards, three):
        assert_same(pool, store)
    three.close()


def test_a_bad_snapshot_changes_nothing(shards: BaselineShards, tmp_path: Path) -> None:
    store, commits = fresh_store(), outcomes(3)
    commit_to(shards, **commits[0])
    shards.snapshot(tmp_path / "bad")
    for commit in commits:
        commit_to(shards, **commit)
        store.update_many(**commit)
    damaged = tmp_path / "bad" / "shard-00001-of-00002.npz"
    damaged.write_bytes(damaged.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=r"shard-00001-of-00002\.npz.*cut off"):
        shards.restore(tmp_path / "bad")
    with pytest.raises(CheckpointError, match="no baseline snapshot"):
        shards.restore(tmp_path / "nowhere")
    assert_same(shards, store)


def test_warm_start(shards: BaselineShards, tmp_path: Path) -> None:
    path = tmp_path / "warm.json"
    path.write_text(json.dumps({"stranger": 0.5}))
    with pytest.raises(CheckpointError, match="0 %"):
        shards.warm_start(path)
    values = {key: i / 100 for i, key in enumerate(KEYS[:100])} | {"set_150": [1, 1, 0], "stranger": 0.5}
    path.write_text(json.dumps({"metadata": {}, "baselines": values}))
    store = fresh_store()

    def row_key(dataset: str, row: int) -> str | None:
        return KEYS[row] if dataset == "set" else None

    report = shards.warm_start(path, row_key=row_key)
    assert report == store.load_from_json(path, row_key=row_key)
    assert (report.hits, report.rows, report.entries) == (101, 200, 102)
    assert_same(shards, store)
    for pid in pids_of(shards):
        os.kill(pid, signal.SIGKILL)
    assert_same(shards, store)


def test_a_shard_that_does_not_answer_is_named_and_the_log_shows_what_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = start_shards(2, tmp_path)
    pool.register(KEYS, SOURCES, FEATURES)
    commit = outcomes(1)[0]
    pid = pids_of(pool)[1]
    pool.timeout_s = 1.0
    os.kill(pid, signal.SIGSTOP)
    try:
        named = (
            rf"the driver has waited .* commit 'step-0' since \S+ \(1 s\), from baseline-shard-1 \(process {pid} on "
        )
        with pytest.raises(StallError, match=named + ".*no answer from shard 1 "):
            commit_to(pool, **commit)
        assert f"shard-1 (process {pid} on" in caplog.text
    finally:
        os.kill(pid, signal.SIGCONT)
    pool.timeout_s = 60.0
    commit_to(pool, **commit)
    store = fresh_store()
    store.update_many(**commit)
    assert_same(pool, store)
    pool.close()


def test_the_deadline_is_longer_than_ray_looks_for_a_lost_node() -> None:
    """A shard is restarted elsewhere only then."""
    tries, seconds = Config.health_check_failure_threshold(), Config.health_check_period_ms() / 1000
    search_s = tries * (seconds + Config.health_check_timeout_ms() / 1000)
    assert search_s == 65.0
    assert DeadlineSettings().baseline_s > 2 * search_s
