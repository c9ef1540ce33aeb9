from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bolt_ray.core.baseline import BaselineSettings, BaselineStore
from bolt_ray.core.baseline.level import CommitSums, LevelTracker
from bolt_ray.core.baseline.sharded_snapshot import read_sharded_snapshot, shard_file, write_manifest
from bolt_ray.core.baseline.snapshot import BaselineSnapshot, _checksum, read_snapshot, write_snapshot
from bolt_ray.core.baseline.update import BaselineUpdate, baseline_update
from bolt_ray.core.baseline.values import PromptValues
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
    rest = {"counters": snapshot.counters, "ids": snapshot.update_ids, "level": snapshot.level}
    return {"rows": dict(sorted(rows.items()))} | rest


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"forgetting": "constant"},
        {"estimator": "beta", "forgetting": "event"},
        {"estimator": "beta", "forgetting": "event", "prior": "mean"},
        {"estimator": "beta"},
    ],
    ids=["two_level", "constant", "event", "mean", "beta"],
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
    assert (len(store), store.get("a")) == (0, (0.5, 0.0))


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
    arrays["manifest"] = np.frombuffer(json.dumps(manifest | {"version": 3}).encode(), dtype=np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(CheckpointError, match=r"version 3; this program reads.*version 2"):
        BaselineStore().load(path)
    with pytest.raises(CheckpointError, match=r"missing\.npz"):
        BaselineStore().load(tmp_path / "missing.npz")


def test_a_file_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    """It held Beta counts alone, without data sets and level."""
    path = tmp_path / "store.npz"
    old = BaselineStore(estimator="beta")
    for update in commits(4):
        old.apply(update)
    old.save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files if name not in ("manifest", "column_source")}
        manifest = json.loads(file["manifest"].tobytes())
    del manifest["level"], manifest["meaning"]["estimator"]
    manifest |= {"version": 1, "checksum": _checksum(arrays)}
    text = np.frombuffer(json.dumps(manifest).encode(), dtype=np.uint8)
    np.savez(path, manifest=text, **arrays)
    store = BaselineStore(estimator="beta")
    store.load(path)
    expected = content(old.snapshot()) | {"level": None}
    assert content(store.snapshot()) | {"level": None} == expected
    with pytest.raises(CheckpointError, match=r"written with estimator: beta.*this run has estimator: two_level"):
        BaselineStore().load(path)


def test_another_meaning_is_refused(tmp_path: Path) -> None:
    BaselineStore().save(tmp_path / "store.npz")
    for changes in ({"forgetting": "constant"}, {"reward_range": (0.0, 2.0)}, {"estimator": "beta"}):
        with pytest.raises(CheckpointError, match="written with"):
            BaselineStore(**changes).load(tmp_path / "store.npz")
    BaselineStore(rho_min=0.5).load(tmp_path / "store.npz")


class Shards:
    """Shards without actors, and the level that their driver keeps."""

    def __init__(self, count: int) -> None:
        self.stores = [PromptValues(BaselineSettings()) for _ in range(count)]
        self.tracker = LevelTracker(strength=None)

    def commit(self, updates: list[BaselineUpdate]) -> Shards:
        """Each shard takes its entries of every commit."""
        for update in updates:
            home = update.keys.shards(len(self.stores))
            level = self.tracker.level()
            parts = [update.take(np.flatnonzero(home == shard)) for shard in range(len(self.stores))]
            sums = [store.apply(replace(part, level=level)) for store, part in zip(self.stores, parts, strict=True)]
            self.tracker.take(sum(sums, start=CommitSums.nothing(level)))  # type: ignore[arg-type]
        return self

    def write(self, directory: Path) -> None:
        directory.mkdir()
        for shard in range(len(self.stores)):
            self.write_one(directory, shard)
        write_manifest(directory, num_shards=len(self.stores), counters=self.stores[0].counters)

    def write_one(self, directory: Path, shard: int) -> None:
        snapshot = self.stores[shard].snapshot(self.tracker.state_dict())
        write_snapshot(shard_file(directory, shard, len(self.stores)), snapshot)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1), (3, 3), (3, 2), (2, 5)])
def test_shards_are_split_and_merged_exactly(before: int, after: int, tmp_path: Path) -> None:
    updates = commits(12)
    Shards(before).commit(updates[:6]).write(tmp_path / "half")
    shards = Shards(after)
    for shard, store in enumerate(shards.stores):
        part = read_sharded_snapshot(tmp_path / "half", shard=shard, num_shards=after)
        store.restore_evidence([part])
    shards.tracker.load_state_dict(part.level)
    shards.commit(updates[6:]).write(tmp_path / "end")
    uninterrupted = BaselineStore()
    for update in updates:
        uninterrupted.apply(update)
    assert content(read_sharded_snapshot(tmp_path / "end")) == content(uninterrupted.snapshot())
    assert sum(store.v_hat_total[0] for store in shards.stores) == len(uninterrupted)


def test_shards_of_different_moments_are_refused(tmp_path: Path) -> None:
    shards = Shards(2).commit(commits(4))
    shards.write(tmp_path / "mixed")
    shards.commit(commits(5)[4:]).write_one(tmp_path / "mixed", 1)
    with pytest.raises(CheckpointError, match="different snapshots"):
        read_sharded_snapshot(tmp_path / "mixed")


def test_a_damaged_snapshot_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"manifest\.json: no baseline snapshot"):
        read_sharded_snapshot(tmp_path)
    Shards(2).commit(commits(1)).write(tmp_path / "x")
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
