"""The snapshot of a sharded store: a directory with one file per shard, and a manifest.

    manifest.json
    shard-00000-of-00002.npz
    shard-00001-of-00002.npz

It can be read back into any number of shards, one of them included.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bolt_ray.core.baseline.snapshot import (
    BaselineCounters,
    BaselineSnapshot,
    join_snapshots,
    read_snapshot,
)
from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.files import write_file_atomically

MANIFEST = "manifest.json"
FORMAT = "bolt_ray.baseline_shards"
FORMAT_VERSION = 1


def shard_file(directory: Path, shard: int, num_shards: int) -> Path:
    """Where shard ``shard`` of ``num_shards`` is kept."""
    return directory / f"shard-{shard:05d}-of-{num_shards:05d}.npz"


def write_manifest(directory: Path, *, num_shards: int, counters: BaselineCounters) -> None:
    """Finish a snapshot whose shard files are written."""
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "num_shards": num_shards,
        "counters": asdict(counters),
    }
    write_file_atomically(directory / MANIFEST, lambda file: file.write(json.dumps(manifest, indent=1).encode()))


def read_sharded_snapshot(directory: Path, *, shard: int = 0, num_shards: int = 1) -> BaselineSnapshot:
    """The part of a snapshot that belongs to shard ``shard`` of ``num_shards``; by default all of it.

    Raises:
        CheckpointError: the manifest or a shard's file is missing, damaged, of another version or of another
            moment than the manifest.
    """
    manifest = _read_manifest(directory)
    written = int(manifest["num_shards"])
    # With as many shards as were written, each one's prompts are in its own file.
    wanted = [shard] if written == num_shards else list(range(written))
    parts = []
    for number in wanted:
        path = shard_file(directory, number, written)
        part = read_snapshot(path)
        if asdict(part.counters) != manifest["counters"]:
            raise CheckpointError(
                f"{path}: was written at {part.counters}, the manifest at {manifest['counters']}; "
                "the files are of different snapshots"
            )
        parts.append(part.take(part.keys.shards(num_shards) == shard))
    return join_snapshots(parts)


def _read_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path}: no baseline snapshot there ({error.strerror})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); it was cut off or altered") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the manifest of a baseline snapshot")
    if manifest.get("version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: version {manifest.get('version')!r}; this program reads version {FORMAT_VERSION}"
        )
    return manifest
