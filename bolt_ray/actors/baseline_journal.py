"""The journal of one baseline shard: acknowledged commits survive the death of its process.

    journal.json      written first; its absence after a restart means that the journal is lost
    rows-000000.npz   registered keys, one file per batch of rows
    base-000003.npz   a snapshot; the highest number counts
    wal-000003.log    the commits since that snapshot, each fsynced before it is applied and acknowledged

A record of the log: 4 bytes magic, length of the payload (uint64), 16-byte blake2b of the payload, payload.
A record cut off at the end of the log was never acknowledged and is dropped; its sender sends it again.
Damage anywhere else is an error.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.baseline.level import CommitSums, Level
from bolt_ray.core.baseline.snapshot import read_snapshot, write_snapshot
from bolt_ray.core.baseline.text_level import TextLevel
from bolt_ray.core.baseline.update import BaselineUpdate
from bolt_ray.core.baseline.values import PromptValues
from bolt_ray.core.digests import storage_errors
from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.files import fsync_path, write_file_atomically
from bolt_ray.core.keys import KeyBatch

_MARKER = "journal.json"
_FORMAT_VERSION = 1
_MAGIC = b"BRW1"
_FRAME = struct.Struct("<4sQ16s")
_HEADER_LENGTH = struct.Struct("<I")


class ShardJournal:
    """The state of one shard's ``PromptValues`` on disk.

    Args:
        directory: belongs to this shard alone.
        store: empty; it is brought to the state of the journal.
        must_exist: the shard has run before, so there must be a journal.
        compact_bytes: a log beyond this size is replaced by a snapshot at the next commit.

    Raises:
        CheckpointError: the journal is lost or damaged.
    """

    def __init__(
        self,
        directory: Path,
        store: PromptValues,
        *,
        must_exist: bool = False,
        compact_bytes: int = 64 * 2**20,
    ) -> None:
        self._directory = directory
        self._store = store
        self._compact_bytes = compact_bytes
        if must_exist and not (directory / _MARKER).is_file():
            raise CheckpointError(
                f"{directory}: the journal of a restarted baseline shard is gone; put the journal directory "
                "on storage that every node of the cluster sees"
            )
        if not (directory / _MARKER).is_file():
            marker = json.dumps({"format": "bolt_ray.baseline_journal", "version": _FORMAT_VERSION}).encode()
            with storage_errors(f"{directory}: the baseline's journal"):
                directory.mkdir(parents=True, exist_ok=True)
                write_file_atomically(directory / _MARKER, lambda file: file.write(marker))
        self.num_row_batches = self._recover_rows()
        self._generation = self._recover_base()
        self.log_bytes = self._recover_log()
        """Size of the log."""
        if must_exist:
            with storage_errors("the baseline's journal"):
                self._part_from_predecessor(self.log_bytes)
        self._log = self._open_log(self._log_path(self._generation), self.log_bytes)

    def register(
        self, batch: int, keys: KeyBatch, sources: NDArray[np.uint16], features: NDArray[np.uint16] | None = None
    ) -> None:
        """Write and register batch number ``batch`` of rows; a known batch changes nothing."""
        if batch < self.num_row_batches:
            return
        assert batch == self.num_row_batches, f"row batch {batch} came before {self.num_row_batches}"
        arrays: dict[str, Any] = {
            "digests": keys.digests,
            "text_lengths": keys.text_lengths,
            "text": keys.text,
            "sources": sources,
        }
        path = self._directory / f"rows-{batch:06d}.npz"
        looks = {} if features is None else {"features": features}
        with storage_errors(f"{path}: the baseline's journal"):
            write_file_atomically(path, lambda file: np.savez(file, allow_pickle=False, **arrays, **looks))
        self._store.add_rows(keys, sources, features)
        self.num_row_batches += 1

    def commit(self, update: BaselineUpdate) -> CommitSums | None:
        """Write and apply a commit; one whose id is known changes nothing.

        Returns:
            What it adds to the level, again if it is the last commit repeated; None for an earlier one.
        """
        if self._store.has_applied(update.update_id):
            return self._store.sums_of(update.update_id)
        # Before, not after: the last commit is in the log then, and what it adds can be told again after a restart.
        if self.log_bytes > self._compact_bytes:
            self.compact()
        header = {
            "kind": "update",
            "newest_version": update.newest_version,
            "update_id": update.update_id,
            "drift": update.drift,
            "distance": update.distance,
            "level": None if update.level is None else _level_header(update.level),
        }
        text = [] if update.level is None or update.level.text is None else [update.level.text.weights]
        self._append(header, update.keys, [update.reward_sums, update.counts, update.versions, *text])
        return self._store.apply(update)

    def seed(
        self, keys: KeyBatch, alpha: NDArray[np.float64], beta: NDArray[np.float64], means: NDArray[np.float64]
    ) -> None:
        """Write and apply the evidence of a warm start."""
        self._append({"kind": "seed"}, keys, [alpha, beta, means])
        self._store.seed(keys, alpha, beta, means=means)

    def compact(self) -> None:
        """Replace log and base by a snapshot of the store.

        Raises:
            StorageError: the disk is full; log and base are as before.
        """
        old, new = self._generation, self._generation + 1
        log = None
        with storage_errors("the baseline's journal"):
            try:
                # The log first: once the base is there, it is what a restart reads, with this log behind it.
                log = self._open_log(self._log_path(new), 0)
                write_snapshot(self._base_path(new), self._store.snapshot())
            except OSError:
                self._base_path(new).unlink(missing_ok=True)
                self._log_path(new).unlink(missing_ok=True)
                if log is not None:
                    log.close()
                raise
        self._log.close()
        self._generation, self._log, self.log_bytes = new, log, 0
        self._base_path(old).unlink(missing_ok=True)
        self._log_path(old).unlink(missing_ok=True)

    def close(self) -> None:
        self._log.close()

    def _append(self, header: dict[str, Any], keys: KeyBatch, arrays: Sequence[NDArray[Any]]) -> None:
        payload = _encode(header, [keys.digests, keys.text_lengths, keys.text, *arrays])
        record = memoryview(_FRAME.pack(_MAGIC, len(payload), _digest(payload)) + payload)
        start = self.log_bytes
        with storage_errors(f"{self._log_path(self._generation)}: the baseline's journal"):
            try:
                written = 0
                while written < len(record):  # a disk that fills up takes a part first
                    written += self._log.write(record[written:])
                os.fsync(self._log.fileno())
            except OSError:
                # Half a record must not stay in front of the next one.
                self._log.seek(start)
                self._log.truncate(start)
                raise
        self.log_bytes = start + len(record)

    def _recover_rows(self) -> int:
        paths = sorted(self._directory.glob("rows-*.npz"))
        for path in paths:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            sources, features = arrays.pop("sources"), arrays.pop("features", None)
            self._store.add_rows(KeyBatch(**arrays), sources, features)
        return len(paths)

    def _recover_base(self) -> int:
        generations = [int(path.stem.removeprefix("base-")) for path in self._directory.glob("base-*.npz")]
        if not generations:
            return 0
        newest = max(generations)
        self._store.restore_evidence([read_snapshot(self._base_path(newest))])
        # Left over when the process died between writing a base and removing the one before.
        for path in [*self._directory.glob("base-*.npz"), *self._directory.glob("wal-*.log")]:
            if path not in (self._base_path(newest), self._log_path(newest)):
                path.unlink()
        return newest

    def _recover_log(self) -> int:
        """Apply the log; the length of its whole part."""
        path = self._log_path(self._generation)
        end = 0
        if path.is_file():
            for record_end, header, arrays in read_log(path):
                keys = KeyBatch(digests=arrays[0], text_lengths=arrays[1], text=arrays[2])
                if header.pop("kind") == "seed":
                    self._store.seed(keys, arrays[3], arrays[4], means=arrays[5])
                else:
                    header["level"] = header["level"] and _level_of(header["level"], arrays[6:])
                    self._store.apply(
                        BaselineUpdate(keys=keys, reward_sums=arrays[3], counts=arrays[4], versions=arrays[5], **header)
                    )
                end = record_end
        return end

    def _part_from_predecessor(self, length: int) -> None:
        """Go on in a copy of the log: where its node was cut off and not dead, the process that had it open may still
        finish a write, whose sender has turned to this one."""
        path = self._log_path(self._generation)
        if path.is_file():
            known = path.read_bytes()[:length]
            write_file_atomically(path, lambda file: file.write(known))

    def _open_log(self, path: Path, length: int) -> io.FileIO:
        path.touch()
        # Unbuffered: what a full disk refused would stay in a buffer and be written again.
        log = path.open("r+b", buffering=0)
        log.truncate(length)
        log.seek(length)
        os.fsync(log.fileno())
        fsync_path(self._directory)
        return log

    def _base_path(self, generation: int) -> Path:
        return self._directory / f"base-{generation:06d}.npz"

    def _log_path(self, generation: int) -> Path:
        return self._directory / f"wal-{generation:06d}.log"


def read_log(path: Path) -> Iterator[tuple[int, dict[str, Any], list[NDArray[Any]]]]:
    """(offset behind the record, header, arrays) of every whole record of a log.

    Raises:
        CheckpointError: a record is damaged that is not the last one.
    """
    size = path.stat().st_size
    with path.open("rb") as log:
        start = 0
        while start < size:
            frame = log.read(_FRAME.size)
            if len(frame) < _FRAME.size:
                return
            magic, length, digest = _FRAME.unpack(frame)
            end = start + _FRAME.size + length
            if magic == _MAGIC and end > size:
                return
            payload = log.read(length) if magic == _MAGIC else b""
            if magic != _MAGIC or _digest(payload) != digest:
                # After a power cut the tail of the last write may have its length but not its content.
                log.seek(start)
                if end == size or not any(log.read()):
                    return
                raise CheckpointError(
                    f"{path}: the record at byte {start} is damaged and others follow it; restore the store "
                    "from a checkpoint"
                )
            yield end, *_decode(payload)
            start = end


def _level_header(level: Level) -> dict[str, Any]:
    """A level without the weights of texts, which are an array of the record."""
    header = {"means": level.means, "strength": level.strength, "unseen_count": level.unseen_count}
    return header if level.text is None else header | {"share": level.text.share}


def _level_of(header: dict[str, Any], weights: Sequence[NDArray[np.float32]]) -> Level:
    share = header.pop("share", None)
    text = None if share is None else TextLevel(weights=weights[0], share=share)
    return Level(**header | {"means": tuple(header["means"]), "text": text})


def _encode(header: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> bytes:
    text = json.dumps(header | {"arrays": len(arrays)}).encode()
    buffer = io.BytesIO()
    buffer.write(_HEADER_LENGTH.pack(len(text)) + text)
    for array in arrays:
        np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _decode(payload: bytes) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    buffer = io.BytesIO(payload)
    (length,) = _HEADER_LENGTH.unpack(buffer.read(_HEADER_LENGTH.size))
    header = json.loads(buffer.read(length))
    count = header.pop("arrays")
    return header, [np.load(buffer, allow_pickle=False) for _ in range(count)]


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
