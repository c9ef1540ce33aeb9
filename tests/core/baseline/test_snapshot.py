from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bolt_ray.core.baseline import BaselineStore
from bolt_ray.core.baseline.sharded_snapshot import read_sharded_snapshot, shard_file, write_manifest
from bolt_ray.core.baseline.snapshot import BaselineSnapshot, read_snapshot
from bolt_ray.core.baseline.update import BaselineUpdate, baseline_update
from bolt_ray.core.errors import CheckpointError

KEYS = [f"{i:032x}" for i in range(60)] + [f"own-{i}" for i in range(60)]


def commits(number: int) -> list[BaselineUpdate]:
    rng = np.random.default_rng(7)
    made = []
    for step in range(number):
        picked = rng.integers(0, len(KEYS), size=17)
        made.append(
            baseline_update(
                [KEYS[i] for i in picked],
                rng.integers(0, 3, size=17) / 2 * 2,
                np.full(17, 2),
                versions=np.maximum(step - rng.integers(0, 3, size=17), 0),
                known_version=step,
                update_id=f"step-{step}",
                drift=float(rng.random() * 0.01),
            )
        )
    return made


def content(snapshot: BaselineSnapshot) -> dict[str, Any]:
    """Everything in a snapshot, in an order that does not depend on how it came about."""
    keys = snapshot.keys.strings()
    rows = {key: {name: column[i] for name, column in snapshot.columns.items()} for i, key in enumerate(keys)}
    return {"rows": dict(sorted(rows.items())), "counters": snapshot.counters, "ids": snapshot.update_ids}


@pytest.mark.parametrize(
    "settings",
    [{}, {"prior": "mean"}, {"forgetting": "kl"}, {"forgetting": "constant"}],
    ids=["event", "mean", "kl", "constant"],
)
def test_a_saved_store_goes_on_as_if_never_stopped(settings: dict[str, Any], tmp_path: Path) -> None:
    whole, first = BaselineStore(**settings), BaselineStore(**settings)
    updates = commits(20)
    for update in updates:
        whole.apply(update)
    for update in updates[:9]:
        first.apply(update)
    first.save(tmp_path / "store.npz")
    second = BaselineStore(**settings)
    second.register(KEYS[::-1])
    second.update("forgotten", 1.0)
    second.load(tmp_path / "store.npz")
    for update in updates:  # those before the save are known and change nothing
        second.apply(update)
    assert content(second.snapshot()) == content(whole.snapshot())
    assert second.get("never seen") == whole.get("never seen")
    assert second.get("forgotten") == second.get("never seen")
    assert second.num_rows == len(KEYS)
    assert [path.name for path in tmp_path.iterdir()] == ["store.npz"]


def test_an_empty_store_can_be_saved(tmp_path: Path) -> None:
    BaselineStore().save(tmp_path / "empty")
    store = BaselineStore()
    store.update("a", 1.0)
    store.load(tmp_path / "empty")
    assert (len(store), store.get("a")) == (0, (0.5, 2.0))


def test_a_truncated_file_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    path = tmp_path / "store.npz"
    store = BaselineStore()
    for update in commits(3):
        store.apply(update)
    store.save(path)
    before = content(store.snapshot())
    data = path.read_bytes()
    for length in [*range(0, len(data), 211), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"store\.npz.*cut off"):
            store.load(path)
    assert content(store.snapshot()) == before


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.npz"
    store = BaselineStore()
    for update in commits(3):
        store.apply(update)
    store.save(path)
    data, good = path.read_bytes(), content(store.snapshot())
    rng = np.random.default_rng(3)
    refused = 0
    for place in rng.integers(0, len(data), size=300).tolist():
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
        try:
            # A byte that means nothing (a time stamp of the archive) may differ.
            assert content(read_snapshot(path)) == good
        except CheckpointError as error:
            assert "store.npz" in str(error)
            refused += 1
    assert refused > 200


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.npz"
    store = BaselineStore()
    store.update("a", 1.0)
    store.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    manifest = json.loads(arrays["manifest"].tobytes())
    arrays["manifest"] = np.frombuffer(json.dumps(manifest | {"version": 2}).encode(), dtype=np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(CheckpointError, match=r"version 2; this program reads.*version 1"):
        BaselineStore().load(path)
    with pytest.raises(CheckpointError, match=r"missing\.npz"):
        BaselineStore().load(tmp_path / "missing.npz")


def test_another_meaning_is_refused(tmp_path: Path) -> None:
    BaselineStore().save(tmp_path / "store.npz")
    for changes in ({"forgetting": "kl"}, {"reward_range": (0.0, 2.0)}, {"prior": "mean"}):
        with pytest.raises(CheckpointError, match="written with"):
            BaselineStore(**changes).load(tmp_path / "store.npz")
    BaselineStore(rho_min=0.5).load(tmp_path / "store.npz")


def split(updates: list[BaselineUpdate], num_shards: int) -> list[BaselineStore]:
    """Shards without actors: each takes its entries of every commit."""
    stores = [BaselineStore() for _ in range(num_shards)]
    for update in updates:
        home = update.keys.shards(num_shards)
        for shard, store in enumerate(stores):
            store.apply(update.take(np.flatnonzero(home == shard)))
    return stores


def write_shards(stores: list[BaselineStore], directory: Path) -> None:
    directory.mkdir()
    for shard, store in enumerate(stores):
        store.save(shard_file(directory, shard, len(stores)))
    write_manifest(directory, num_shards=len(stores), counters=stores[0].counters)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 3), (3, 2), (2, 5)])
def test_shards_are_split_and_merged_exactly(before: int, after: int, tmp_path: Path) -> None:
    updates = commits(12)
    write_shards(split(updates[:6], before), tmp_path / "half")
    stores = [BaselineStore() for _ in range(after)]
    for shard, store in enumerate(stores):
        store.restore([read_sharded_snapshot(tmp_path / "half", shard=shard, num_shards=after)])
    for update in updates[6:]:
        home = update.keys.shards(after)
        for shard, store in enumerate(stores):
            store.apply(update.take(np.flatnonzero(home == shard)))
    write_shards(stores, tmp_path / "end")
    uninterrupted = BaselineStore()
    for update in updates:
        uninterrupted.apply(update)
    assert content(read_sharded_snapshot(tmp_path / "end")) == content(uninterrupted.snapshot())
    assert sum(store.v_hat_total[1] for store in stores) == uninterrupted.v_hat_total[1]


def test_shards_of_different_moments_are_refused(tmp_path: Path) -> None:
    stores = split(commits(4), 2)
    write_shards(stores, tmp_path / "mixed")
    stores[1].update("own-1", 1.0)
    stores[1].save(shard_file(tmp_path / "mixed", 1, 2))
    with pytest.raises(CheckpointError, match="different snapshots"):
        read_sharded_snapshot(tmp_path / "mixed")


def test_a_damaged_snapshot_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"manifest\.json: no baseline snapshot"):
        read_sharded_snapshot(tmp_path)
    write_shards(split(commits(1), 2), tmp_path / "x")
    shard_file(tmp_path / "x", 1, 2).unlink()
    with pytest.raises(CheckpointError, match="shard-00001-of-00002"):
        read_sharded_snapshot(tmp_path / "x")
    manifest = tmp_path / "x" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 9', 1))
    with pytest.raises(CheckpointError, match="version 9"):
        read_sharded_snapshot(tmp_path / "x")
    manifest.write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_sharded_snapshot(tmp_path / "x")
