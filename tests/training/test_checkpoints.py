"""Checkpoints are whole or not there; the run directory is never overwritten."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.disks import fill, small_disk

from bolt_ray.core.digests import FileDigest, write_digested
from bolt_ray.core.errors import CheckpointError, StorageError, WeightSyncError
from bolt_ray.training.checkpoints import newest_usable, read_checkpoint, write_checkpoint
from bolt_ray.training.run_directory import (
    RunDirectory,
    list_checkpoints,
    set_aside_later,
)


def write_parts(directory: Path) -> dict[str, FileDigest]:
    (directory / "model").mkdir()
    weights = directory / "model" / "weights.bin"
    return {str(weights): write_digested(weights, [b"w" * 600, b"w" * 400])}


def save(run: RunDirectory, step: int, keep: int = 2) -> Path:
    return write_checkpoint(run, step=step, state={"step": step}, write_parts=write_parts, keep=keep)


def test_written_and_read_back(tmp_path: Path) -> None:
    path = save(RunDirectory(tmp_path), 7)
    assert path.name == "step-000007"
    assert read_checkpoint(path) == {"step": 7}
    assert (path / "model" / "weights.bin").read_bytes() == b"w" * 1000


def test_only_the_newest_are_kept_in_order(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (5, 10, 100):
        save(run, step)
    assert [path.name for path in list_checkpoints(run)] == ["step-000010", "step-000100"]


def test_one_that_failed_half_way_is_not_a_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)

    def fail(directory: Path) -> dict[str, FileDigest]:
        write_parts(directory)
        raise WeightSyncError("a generator is lost")

    with pytest.raises(WeightSyncError):
        write_checkpoint(run, step=1, state={}, write_parts=fail, keep=2)
    assert list(run.checkpoints.iterdir()) == []
    assert read_checkpoint(save(run, 1)) == {"step": 1}


def test_a_full_disk_costs_the_new_checkpoint_and_not_the_one_before(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        run = RunDirectory(disk)
        older = save(run, 1)
        ballast = fill(disk, leave=4096)
        with pytest.raises(StorageError, match=r"checkpoint step-000002 could not be written: .*No space left"):
            save(run, 2)
        assert list(run.checkpoints.iterdir()) == [older]
        assert read_checkpoint(older) == {"step": 1}
        ballast.unlink()
        assert read_checkpoint(save(run, 2)) == {"step": 2}


def test_a_read_only_directory_costs_the_new_checkpoint_and_not_the_one_before(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=256) as disk:
        run = RunDirectory(disk)
        older = save(run, 1)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StorageError, match=r"checkpoint step-000002 could not be written: .*Read-only file system"):
            save(run, 2)
        assert newest_usable(run) == (older, {"step": 1}, [])


@pytest.mark.parametrize("there", [b"w" * 999, None])
def test_a_part_that_is_not_as_it_was_written_makes_no_checkpoint(there: bytes | None, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    older = save(run, 1)

    def lose(directory: Path) -> dict[str, FileDigest]:
        digests = write_parts(directory)
        weights = directory / "model" / "weights.bin"
        weights.unlink() if there is None else weights.write_bytes(there)
        return digests

    with pytest.raises(StorageError, match=r"weights\.bin: (999 bytes are there, 1,000 were written|.* is not there)"):
        write_checkpoint(run, step=2, state={}, write_parts=lose, keep=1)
    assert list(run.checkpoints.iterdir()) == [older]


def test_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name in (".writing-step-000003-0a1b2c3d", ".removing-step-000001"):
        write_parts_of = run.checkpoints / name
        write_parts_of.mkdir(parents=True)
        write_parts(write_parts_of)
    assert [path.name for path in (save(run, 4), *run.checkpoints.iterdir())] == ["step-000004"] * 2


def test_one_that_is_held_is_not_removed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (1, 2, 3):
        write_checkpoint(run, step=step, state={}, write_parts=write_parts, keep=1, held={"step-000001"})
    assert [path.name for path in list_checkpoints(run)] == ["step-000001", "step-000003"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "model" / "weights.bin").unlink(), r"weights\.bin: missing"),
        (lambda p: (p / "model" / "weights.bin").write_bytes(b"w" * 999), r"weights\.bin: changed or truncated"),
        (lambda p: (p / "model" / "weights.bin").write_bytes(b"x" * 1000), r"weights\.bin: changed or truncated"),
        (lambda p: (p / "manifest.json").write_text("{"), r"manifest\.json cannot be read"),
        (lambda p: (p / "manifest.json").write_text(json.dumps({"format": 99})), "checkpoint format 99"),
    ],
)
def test_damage_is_found(tmp_path: Path, damage: object, message: str) -> None:
    path = save(RunDirectory(tmp_path), 1)
    damage(path)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_the_previous_checkpoint_is_used_and_the_broken_one_named(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert newest_usable(run) is None
    older, newer = save(run, 1), save(run, 2)
    found = newest_usable(run)
    assert found is not None
    assert (found.path, found.state, found.refused) == (newer, {"step": 2}, [])
    (newer / "model" / "weights.bin").write_bytes(b"w" * 500 + b"x" + b"w" * 499)
    found = newest_usable(run)
    assert found is not None
    assert (found.path, found.state) == (older, {"step": 1})
    assert [path for path, _ in found.refused] == [newer.name]
    assert "weights.bin: changed or truncated" in found.refused[0][1]
    (older / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"no checkpoint there is whole .*weights\.bin.*state\.json: missing"):
        newest_usable(run)


def test_checkpoints_after_the_one_resumed_are_set_aside(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (80, 90, 100):
        save(run, step, keep=3)
    resumed = run.checkpoints / "step-000080"
    moved = set_aside_later(run, resumed)
    assert [path.name[:21] for path in moved] == ["set-aside-step-000090", "set-aside-step-000100"]
    assert all((path / "manifest.json").is_file() for path in moved)
    assert list_checkpoints(run) == [resumed]
    # What is trained again is written, kept, and found again.
    save(run, 85, keep=3)
    newer = save(run, 90, keep=3)
    assert [path.name for path in list_checkpoints(run)] == ["step-000080", "step-000085", "step-000090"]
    found = newest_usable(run)
    assert found is not None and found.path == newer
    assert set_aside_later(run, newer) == []
    assert len(list(run.checkpoints.glob("set-aside-*"))) == 1, "that of step 90 was trained again"
    save(run, 120, keep=3)
    assert list(run.checkpoints.glob("set-aside-*")) == []
