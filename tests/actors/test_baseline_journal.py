from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.disks import fill, small_disk

from bolt_ray.actors.baseline_journal import ShardJournal
from bolt_ray.core.baseline import BaselineSettings
from bolt_ray.core.baseline.level import Level
from bolt_ray.core.baseline.prompt_features import BUCKETS, prompt_features
from bolt_ray.core.baseline.snapshot import write_snapshot
from bolt_ray.core.baseline.text_level import TextLevel
from bolt_ray.core.baseline.update import BaselineUpdate, baseline_update
from bolt_ray.core.baseline.values import PromptValues
from bolt_ray.core.errors import CheckpointError, StorageError
from bolt_ray.core.keys import encode_keys

KEYS = [f"own-{i}" for i in range(9)] + [f"{i:032x}" for i in range(9)]
FIRST_OF_ONE = np.array([1, *[0] * (len(KEYS) - 1)], dtype=np.uint16)
"""Of two data sets, the first key is of number 1."""
LEVEL = Level(means=(0.25, 0.5), strength=4.0, unseen_count=0.0)


def commits(number: int) -> list[BaselineUpdate]:
    rng = np.random.default_rng(1)
    return [
        baseline_update(
            [KEYS[i] for i in rng.integers(0, len(KEYS), size=5)],
            rng.random(5),
            np.ones(5, dtype=np.int64),
            versions=step,
            known_version=step,
            update_id=f"step-{step}",
            drift=0.01 * step,
            level=Level(means=(0.1 * (step % 9), 0.75), strength=2.0, unseen_count=0.0),
        )
        for step in range(number)
    ]


def values(store: PromptValues) -> tuple[list[float], list[float], object]:
    read = store.read(KEYS, version=50, level=LEVEL)
    return read.v_hat.tolist(), read.n_eff.tolist(), store.counters


def reopened(directory: Path) -> tuple[PromptValues, ShardJournal]:
    store = PromptValues(BaselineSettings())
    return store, ShardJournal(directory, store, must_exist=True)


def test_everything_acknowledged_comes_back(tmp_path: Path) -> None:
    store = PromptValues(BaselineSettings())
    journal = ShardJournal(tmp_path, store)
    journal.register(0, encode_keys(KEYS[:4]), FIRST_OF_ONE[:4])
    journal.register(1, encode_keys([]), FIRST_OF_ONE[:0])
    journal.seed(encode_keys(KEYS[:2]), np.array([6.0, 1.0]), np.array([2.0, 1.0]), np.array([0.5, 0.75]))
    for update in commits(4):
        journal.commit(update)
    journal.register(2, encode_keys(KEYS[4:]), FIRST_OF_ONE[4:])
    journal.close()
    again, second = reopened(tmp_path)
    assert values(again) == values(store)
    assert again.num_rows == len(KEYS)
    assert np.array_equal(again.columns(level=LEVEL).v_hat, store.columns(level=LEVEL).v_hat)
    for update in commits(6):
        second.commit(update)
        store.apply(update)
    second.close()
    assert values(reopened(tmp_path)[0]) == values(store)


def test_repeated_calls_change_nothing(tmp_path: Path) -> None:
    store = PromptValues(BaselineSettings())
    journal = ShardJournal(tmp_path, store)
    journal.register(0, encode_keys(KEYS), FIRST_OF_ONE)
    journal.register(0, encode_keys(KEYS), FIRST_OF_ONE)
    (update,) = commits(1)
    journal.commit(update)
    size, before = journal.log_bytes, values(store)
    journal.commit(update)
    assert (journal.log_bytes, values(store), store.num_rows) == (size, before, len(KEYS))


def test_a_record_cut_off_at_any_byte_is_dropped(tmp_path: Path) -> None:
    updates = commits(3)
    expected = PromptValues(BaselineSettings())
    for update in updates[:2]:
        expected.apply(update)
    journal = ShardJournal(tmp_path, PromptValues(BaselineSettings()))
    for update in updates[:2]:
        journal.commit(update)
    whole = journal.log_bytes
    journal.commit(updates[2])
    journal.close()
    log = tmp_path / "wal-000000.log"
    data = log.read_bytes()
    tails = [data[:length] for length in range(whole, len(data), 37)]
    tails += [data[: whole + 9] + bytes(len(data) - whole - 9), data[:whole] + bytes(40)]
    for tail in tails:
        log.write_bytes(tail)
        store, journal = reopened(tmp_path)
        assert values(store) == values(expected)
        assert journal.log_bytes == whole
        journal.commit(updates[2])
        journal.close()
        assert log.read_bytes() == data


def test_damage_before_the_end_is_an_error(tmp_path: Path) -> None:
    journal = ShardJournal(tmp_path, PromptValues(BaselineSettings()))
    for update in commits(3):
        journal.commit(update)
    journal.close()
    log = tmp_path / "wal-000000.log"
    data = bytearray(log.read_bytes())
    data[100] ^= 0xFF
    log.write_bytes(data)
    with pytest.raises(CheckpointError, match="record at byte 0 is damaged"):
        reopened(tmp_path)


def test_a_lost_journal_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="storage that every node"):
        ShardJournal(tmp_path / "gone", PromptValues(BaselineSettings()), must_exist=True)


def test_compaction_keeps_everything(tmp_path: Path) -> None:
    store = PromptValues(BaselineSettings())
    journal = ShardJournal(tmp_path, store, compact_bytes=3000)
    journal.register(0, encode_keys(KEYS), FIRST_OF_ONE)
    for update in commits(12):
        journal.commit(update)
        assert journal.log_bytes <= 3000 + 700  # and the commit that found it full
    journal.close()
    names = sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".npz", ".log"))
    assert len(names) == 3
    assert names[0] > "base-000001"
    assert values(reopened(tmp_path)[0]) == values(store)


@pytest.mark.parametrize("step", ["base written aside", "base written", "log written"])
def test_death_in_the_middle_of_a_compaction(step: str, tmp_path: Path) -> None:
    store = PromptValues(BaselineSettings())
    journal = ShardJournal(tmp_path, store)
    updates = commits(5)
    for update in updates[:4]:
        journal.commit(update)
    journal.close()
    if step == "base written aside":
        (tmp_path / ".base-000001.npz.part").write_bytes(b"half")
    else:
        write_snapshot(tmp_path / "base-000001.npz", store.snapshot())
    if step == "log written":
        (tmp_path / "wal-000001.log").touch()
    again, journal = reopened(tmp_path)
    assert values(again) == values(store)
    journal.commit(updates[4])
    store.apply(updates[4])
    journal.close()
    assert values(reopened(tmp_path)[0]) == values(store)


def test_what_a_predecessor_cut_off_from_the_cluster_still_writes_is_not_read(tmp_path: Path) -> None:
    first, second, third = commits(3)
    before = ShardJournal(tmp_path, PromptValues(BaselineSettings()))
    before.commit(first)
    store, journal = reopened(tmp_path)
    before.commit(second)  # its sender has turned to the new process, which gets it too
    journal.commit(second)
    before.commit(third)
    journal.close()
    before.close()
    assert values(reopened(tmp_path)[0]) == values(store)
    assert store.counters.num_updates == 2


def test_a_full_disk_refuses_a_commit_and_harms_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        store, journal = (
            PromptValues(BaselineSettings()),
            ShardJournal(disk / "shard", PromptValues(BaselineSettings())),
        )
        updates = commits(40)
        for update in updates[:5]:
            journal.commit(update)
            store.apply(update)
        before = journal.log_bytes
        ballast = fill(disk, leave=4096)
        done = 5
        with pytest.raises(StorageError, match=r"wal-000000\.log: the baseline's journal .*No space left"):
            for update in updates[5:]:
                journal.commit(update)
                store.apply(update)
                done += 1
        assert journal.log_bytes >= before
        assert (disk / "shard" / "wal-000000.log").stat().st_size == journal.log_bytes
        # With room it goes on, in the same process and in the next.
        ballast.unlink()
        journal.commit(updates[done])
        store.apply(updates[done])
        again, second = reopened(disk / "shard")
        assert values(again) == values(store)
        for update in updates[done + 1 :]:
            second.commit(update)
            store.apply(update)
        second.close()
        assert values(reopened(disk / "shard")[0]) == values(store)


def test_a_full_disk_in_a_compaction_loses_no_later_commit(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        store = PromptValues(BaselineSettings())
        journal = ShardJournal(disk / "shard", store)
        updates = commits(6)
        for update in updates[:3]:
            journal.commit(update)
        ballast = fill(disk, leave=0)
        with pytest.raises(StorageError, match=r"journal could not be written: .*No space left"):
            journal.compact()
        ballast.unlink()
        for update in updates[3:]:
            journal.commit(update)
        again, second = reopened(disk / "shard")
        assert values(again) == values(store)
        second.compact()
        second.close()
        assert values(reopened(disk / "shard")[0]) == values(store)


def test_what_texts_told_at_each_commit_comes_back(tmp_path: Path) -> None:
    features = prompt_features([f"{i}+{i * i}=" for i in range(len(KEYS))])
    rng = np.random.default_rng(5)
    texts = [TextLevel(weights=rng.normal(size=BUCKETS).astype(np.float32), share=share) for share in (0.5, 1.0)]
    store = PromptValues(BaselineSettings())
    journal = ShardJournal(tmp_path, store)
    journal.register(0, encode_keys(KEYS), FIRST_OF_ONE, features)
    updates = [replace(update, level=replace(LEVEL, text=text)) for update, text in zip(commits(2), texts, strict=True)]
    sums = [journal.commit(update) for update in updates]
    journal.close()
    again, reopened_journal = reopened(tmp_path)
    told = [s.read(KEYS, level=replace(LEVEL, text=texts[0])).v_hat.tolist() for s in (store, again)]
    assert told[0] == told[1]
    assert len(set(told[0])) > 10  # the texts do tell
    repeated = reopened_journal.commit(updates[-1])
    assert repeated is not None
    assert sums[-1] is not None
    assert np.array_equal(repeated.slopes, sums[-1].slopes)
    assert repeated.slopes.any()
