"""The evidence of a baseline store at one moment, and the file it is kept in.

A snapshot file is an ``.npz`` without pickles: the arrays, and a member ``manifest`` with the format version,
the meaning of the numbers, the counters and a checksum over the arrays. It is written aside, fsynced and
renamed, so that a file under its final name is whole.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.files import write_file_atomically
from bolt_ray.core.keys import KeyBatch, concatenate_keys

FORMAT = "bolt_ray.baseline"
FORMAT_VERSION = 2
_BETA_ONLY = 1
"""The version before: estimator beta alone, one level for all data sets."""
_KEY_ARRAYS = ("digests", "text_lengths", "text")
_UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    NotImplementedError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
"""What numpy and zipfile raise for damaged archives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineCounters:
    """What a store counts beside its prompts; the same on every shard of one store.

    Attributes:
        version: newest policy version among the outcomes committed.
        drift_total: the policy's drift counted so far, mean token |Δ log π| summed over steps.
        drift_ema: moving average of the drift of single steps.
        num_updates: commits taken.
    """

    version: int = 0
    drift_total: float = 0.0
    drift_ema: float = 0.0
    num_updates: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineSnapshot:
    """Evidence of n prompts.

    Attributes:
        meaning: settings without which the numbers mean something else (forgetting rule, reward range, …).
        keys: n keys.
        columns: the columns of ``core.baseline.evidence``, each [n].
        counters: the store's counters.
        update_ids: ids of the latest commits, oldest first.
        level: state of the store's level, see ``core.baseline.level``; empty where it is kept elsewhere.
    """

    meaning: dict[str, Any]
    keys: KeyBatch
    columns: dict[str, NDArray[Any]]
    counters: BaselineCounters
    update_ids: tuple[str, ...]
    level: dict[str, Any] = field(default_factory=dict)

    def take(self, which: NDArray[Any]) -> BaselineSnapshot:
        """The snapshot of only the prompts ``which`` (int [m], or bool [n])."""
        return BaselineSnapshot(
            meaning=self.meaning,
            keys=self.keys.take(which),
            columns={name: column[which] for name, column in self.columns.items()},
            counters=self.counters,
            update_ids=self.update_ids,
            level=self.level,
        )


def join_snapshots(parts: Sequence[BaselineSnapshot]) -> BaselineSnapshot:
    """The snapshot of a store whose shards have the snapshots ``parts`` (at least one).

    Raises:
        CheckpointError: the parts were not taken at one moment of one store.
    """
    first = parts[0]
    for part in parts[1:]:
        if _moment(part) != _moment(first):
            raise CheckpointError(
                f"baseline shards do not belong together: one is at {first.counters}, another at "
                f"{part.counters}; restore a snapshot that was written as a whole"
            )
    return BaselineSnapshot(
        meaning=first.meaning,
        keys=concatenate_keys([part.keys for part in parts]),
        columns={name: np.concatenate([part.columns[name] for part in parts]) for name in first.columns},
        counters=first.counters,
        update_ids=first.update_ids,
        level=first.level,
    )


def _moment(part: BaselineSnapshot) -> tuple[object, ...]:
    return part.meaning, part.counters, part.update_ids, part.level


def write_snapshot(path: Path, snapshot: BaselineSnapshot) -> None:
    """Write ``snapshot`` to the file ``path`` atomically; its directory must exist."""
    arrays = {name: getattr(snapshot.keys, name) for name in _KEY_ARRAYS} | {
        f"column_{name}": column for name, column in snapshot.columns.items()
    }
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "meaning": snapshot.meaning,
        "counters": asdict(snapshot.counters),
        "update_ids": snapshot.update_ids,
        "level": snapshot.level,
        "checksum": _checksum(arrays),
    }
    text = np.frombuffer(json.dumps(manifest).encode(), dtype=np.uint8)
    write_file_atomically(path, lambda file: np.savez(file, allow_pickle=False, manifest=text, **arrays))


def read_snapshot(path: Path) -> BaselineSnapshot:
    """Read the file ``path``.

    Raises:
        CheckpointError: there is no such file, it is truncated or altered, or of another format or version.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no baseline snapshot there")
    try:
        with zipfile.ZipFile(path):
            pass  # np.load takes a file that is no archive for an array or a pickle
        with np.load(path, allow_pickle=False) as file:
            manifest = json.loads(file["manifest"].tobytes())
            arrays = {name: file[name] for name in file.files if name != "manifest"}
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path}: no whole baseline snapshot ({error}); it was cut off or altered, use an earlier one"
        ) from error
    if manifest.get("format") != FORMAT or manifest.get("version") not in (_BETA_ONLY, FORMAT_VERSION):
        raise CheckpointError(
            f"{path}: format {manifest.get('format')!r} version {manifest.get('version')!r}; "
            f"this program reads {FORMAT!r} version {FORMAT_VERSION}"
        )
    if manifest["checksum"] != _checksum(arrays):
        raise CheckpointError(f"{path}: the checksum does not match its arrays; it was altered, use an earlier one")
    if manifest["version"] == _BETA_ONLY:
        manifest |= {"meaning": {"estimator": "beta"} | manifest["meaning"], "level": {}}
        arrays["column_source"] = np.zeros(len(arrays["digests"]), dtype=np.uint16)
    return BaselineSnapshot(
        meaning=manifest["meaning"],
        keys=KeyBatch(**{name: arrays.pop(name) for name in _KEY_ARRAYS}),
        columns={name.removeprefix("column_"): array for name, array in arrays.items()},
        counters=BaselineCounters(**manifest["counters"]),
        update_ids=tuple(manifest["update_ids"]),
        level=manifest["level"],
    )


def _checksum(arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
