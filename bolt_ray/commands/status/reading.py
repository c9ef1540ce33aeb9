"""Which run is meant, and what its files say, without reading all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bolt_ray.core.errors import CheckpointError
from bolt_ray.training.run_directory import RUNS_VARIABLE, RunDirectory, run_places

BLOCK = 1 << 16


def find_run(run: Path | None) -> RunDirectory:
    """The run that is named, or the newest in the directories of runs (`run_places`).

    Raises:
        CheckpointError: there is none.
    """
    if run is not None:
        if _last_written(run) is None:
            raise CheckpointError(f"{run}: no run directory (it has neither state.json nor metrics.jsonl)")
        return RunDirectory(run.absolute())
    places = run_places()
    written = {path: _last_written(path) for place in places if place.is_dir() for path in place.iterdir()}
    found = [(time, path) for path, time in written.items() if time is not None]
    if not found:
        raise CheckpointError(
            f"no run under {' or '.join(map(str, places))}; name a run directory, or the directory of all runs in the "
            f"environment variable {RUNS_VARIABLE}"
        )
    return RunDirectory(max(found)[1].absolute())


def _last_written(path: Path) -> float | None:
    run = RunDirectory(path)
    times = [file.stat().st_mtime for file in (run.state, run.metrics_jsonl) if file.is_file()]
    return max(times, default=None)


def read_state(run: RunDirectory) -> dict[str, Any]:
    """The run's ``state.json``; {} if it has none.

    Raises:
        CheckpointError: the file is not such a state.
    """
    try:
        text = run.state.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise CheckpointError(f"{run.state}: cannot be read ({error.strerror})") from None
    try:
        state = json.loads(text)
    except ValueError:
        state = None
    if not isinstance(state, dict) or state.get("version") != 1:
        raise CheckpointError(f"{run.state}: not a state this version of bolt-ray knows")
    return state


def last_record(path: Path, *, kind: str) -> Mapping[str, Any] | None:
    """The newest line of a ``metrics.jsonl`` that has a metric ``kind…``; read from the end."""
    for line in _lines_backwards(path):
        try:
            record = json.loads(line)
        except ValueError:  # torn by a crash
            continue
        if any(name.startswith(kind) for name in record):
            return record  # type: ignore[no-any-return]
    return None


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file, the last one first."""
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        left, rest = file.seek(0, os.SEEK_END), b""
        while left > 0:
            size = min(BLOCK, left)
            left -= size
            file.seek(left)
            rest, *lines = (file.read(size) + rest).split(b"\n")
            yield from (line for line in reversed(lines) if line)
        if rest:
            yield rest
