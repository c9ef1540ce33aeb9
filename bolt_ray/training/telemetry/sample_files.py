"""The samples of a run as files: one for each step and each evaluation, within a bound for all of them.

samples/step-000120.jsonl   rows of `sample_rows`
        eval-000050.jsonl
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bolt_ray.core.evaluation.summary import EvaluationResult
from bolt_ray.training.settings import SamplesSettings
from bolt_ray.training.telemetry.observer import TrainedStep
from bolt_ray.training.telemetry.sample_rows import Row, evaluation_rows, row_text, training_rows

log = logging.getLogger(__name__)

_PREFIXES = {"train": "step", "eval": "eval"}
_KINDS = {prefix: kind for kind, prefix in _PREFIXES.items()}
_NAME = re.compile(r"(step|eval)-(\d+)")
_LARGEST_SHARE = 0.25
"""Of the bound, for one file: the samples of other steps are to have room beside it."""

_BYTES_PER_MB = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFile:
    """A file of samples.

    Attributes:
        path: its place.
        kind: "train" or "eval".
        step: optimizer steps finished.
    """

    path: Path
    kind: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenSamples:
    """A file that was written: its name without ending, and its rows."""

    name: str
    rows: Sequence[Row]


class SampleFiles:
    """Writes them; each is whole or not there. Its errors are those of the disk, for the caller to outlive.

    Args:
        directory: made when there is something to write.
        settings: what is kept.
        reward_range: of the baseline, to which rewards are scaled.
        first_step: finished steps that the run goes on from.
    """

    def __init__(
        self, directory: Path, settings: SamplesSettings, *, reward_range: tuple[float, float], first_step: int
    ) -> None:
        self._directory = directory
        self._settings = settings
        self._reward_range = reward_range
        self._first_step = first_step
        self._max_bytes = settings.max_mb * _BYTES_PER_MB
        self._sizes: dict[str, dict[int, int]] = {kind: {} for kind in _PREFIXES}
        self._said_too_many = False
        self._begun = False

    def begin(self) -> None:
        """Remove what steps left that are about to be trained again, and what a kill cut off; count the rest.

        The first file that is written does so, and not before: a start that fails takes nothing away.
        """
        self._begun = True
        for torn in self._directory.glob(".*.part"):
            torn.unlink()
        for file in sample_files(self._directory):
            if file.step > self._first_step:
                file.path.unlink(missing_ok=True)
            else:
                self._sizes[file.kind][file.step] = file.path.stat().st_size

    def of_step(self, trained: TrainedStep) -> WrittenSamples | None:
        """The file of a finished step; None if none is wanted."""
        if self._settings.per_step == 0 and not self._settings.all:
            return None
        rows = training_rows(trained, self._settings, reward_range=self._reward_range)
        return self._write("train", trained.step, rows)

    def of_evaluation(self, result: EvaluationResult, *, step: int, policy_version: int) -> WrittenSamples | None:
        """The file of an evaluation; None if none is wanted."""
        if self._settings.eval == 0:
            return None
        rows = evaluation_rows(result, self._settings, step=step, policy_version=policy_version)
        return self._write("eval", step, rows)

    def _write(self, kind: str, step: int, rows: Sequence[Row]) -> WrittenSamples:
        if not self._begun:
            self.begin()
        name = _name(kind, step)
        lines = [row_text(row).encode() for row in rows]
        size, kept = 0, 0
        while kept < len(lines) and size + len(lines[kept]) <= self._max_bytes * _LARGEST_SHARE:
            size += len(lines[kept])
            kept += 1
        if kept < len(lines) and not self._said_too_many:
            self._said_too_many = True
            log.warning(
                "%s: %d of %d samples are kept, which fill a quarter of samples.max_mb; raise it for all of them",
                *(name, kept, len(lines)),
            )
        # Room first: not even for a moment may there be more than the bound.
        for old in superfluous(self._sizes, room=self._max_bytes - size):
            (self._directory / f"{_name(*old)}.jsonl").unlink(missing_ok=True)
            del self._sizes[old[0]][old[1]]
        self._directory.mkdir(exist_ok=True)
        aside = self._directory / f".{name}.part"
        aside.write_bytes(b"".join(lines[:kept]))
        aside.replace(self._directory / f"{name}.jsonl")
        self._sizes[kind][step] = size
        return WrittenSamples(name=name, rows=rows[:kept])


def _name(kind: str, step: int) -> str:
    return f"{_PREFIXES[kind]}-{step:06d}"


def superfluous(sizes: Mapping[str, Mapping[int, int]], *, room: float) -> list[tuple[str, int]]:
    """Files to remove, as (kind, step), so that the others take at most ``room`` bytes.

    One after the other goes, of the kind that takes the most: the file whose neighbors are closest together, measured
    by the root of its age in steps. Recent steps are thus denser than those long ago, which still reach back to the
    first; the first and the newest stay longest.

    Args:
        sizes: bytes of the files of each kind, by step in ascending order.
    """
    left = {kind: dict(files) for kind, files in sizes.items()}
    removed: list[tuple[str, int]] = []
    while sum(sum(files.values()) for files in left.values()) > room and any(left.values()):
        kind = max(left, key=lambda kind: sum(left[kind].values()))
        steps = np.fromiter(left[kind], dtype=np.int64)
        crowded = np.argmin((steps[2:] - steps[:-2]) / np.sqrt(steps[-1] - steps[1:-1])) + 1 if steps.size > 2 else 0
        step = int(steps[crowded])
        del left[kind][step]
        removed.append((kind, step))
    return removed


def sample_files(directory: Path) -> list[SampleFile]:
    """The files of samples in ``directory``, by step; [] if there are none.

    Raises:
        OSError: it cannot be read.
    """
    if not directory.is_dir():
        return []
    named = [(path, _NAME.fullmatch(path.stem)) for path in directory.glob("*.jsonl")]
    found = [
        SampleFile(path=path, kind=_KINDS[match.group(1)], step=int(match.group(2))) for path, match in named if match
    ]
    return sorted(found, key=lambda file: (file.step, file.kind))


def read_samples(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows of a file, and how many lines of it are none, as where a copy was cut off.

    A file that is gone has none: a run that goes on removes files to keep within its bound.

    Raises:
        OSError: it cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    lines = [line for line in content.split(b"\n") if line.strip()]
    rows = [row for line in lines if (row := _row(line)) is not None]
    return rows, len(lines) - len(rows)


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None
