"""A run directory as the report needs it. Any file may be missing, and its last line torn: the run may be going on."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bolt_ray.commands.status.condition import Condition, Here, condition
from bolt_ray.commands.status.reading import read_state
from bolt_ray.config.loading import read_yaml
from bolt_ray.core.errors import CheckpointError, ConfigError
from bolt_ray.core.secrets import masked
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.record import is_evaluation, read_record
from bolt_ray.training.telemetry.sample_files import read_samples, sample_files
from bolt_ray.training.telemetry.state import pid_space, started_ticks

Record = Mapping[str, Any]

MAX_SAMPLES = 10_000
"""Samples that a page holds; a browser opens as many at once."""
MAX_SAMPLE_BYTES = 32 << 20
"""Of their files: long completions would make a page that no browser opens, and that takes long to make."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRun:
    """What the files of a run say.

    Attributes:
        path: its directory.
        config: ``config.yaml`` as a plain tree without its secrets; empty if there is none.
        steps: the lines of ``metrics.jsonl`` of optimizer steps, in their order.
        evaluations: those of evaluations.
        samples: rows of ``samples/*.jsonl``, by step; at most ``MAX_SAMPLES`` of them, of ``MAX_SAMPLE_BYTES``.
        num_samples: how many there are in all.
        condition: how it stands by ``state.json``, also without secrets; None if there is none.
        notes: what could not be read, each a sentence.
    """

    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    steps: Sequence[Record] = ()
    evaluations: Sequence[Record] = ()
    samples: Sequence[Record] = ()
    num_samples: int = 0
    condition: Condition | None = None
    notes: Sequence[str] = ()

    @property
    def records(self) -> list[Record]:
        """Of steps and evaluations, in their order."""
        return sorted([*self.steps, *self.evaluations], key=lambda record: float(record["step"]))

    @property
    def last_step(self) -> int:
        """Finished optimizer steps by the last record; 0 without one."""
        return int(max((float(kind[-1]["step"]) for kind in (self.steps, self.evaluations) if kind), default=0.0))


def read_run(path: Path) -> ReadRun:
    """Read what is there.

    Raises:
        CheckpointError: ``path`` is no run directory.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: there is no such directory; name a run directory, for example runs/<name>-<time>"
        )
    run = RunDirectory(path.absolute())
    if not any(file.is_file() for file in (run.config, run.metrics_jsonl, run.state)):
        raise CheckpointError(f"{path}: not a run of bolt-ray, it has neither config.yaml nor metrics.jsonl")
    notes: list[str] = []
    records, damaged = read_record(run.metrics_jsonl)
    if damaged:
        notes.append(f"{run.metrics_jsonl.name}: {damaged:,} lines cannot be read and were left out.")
    records.sort(key=lambda record: float(record["step"]))
    samples, num_samples = _samples(run.samples, notes)
    return ReadRun(
        path=run.root,
        config=masked(_config(run.config, notes), environ=os.environ),
        steps=[record for record in records if not is_evaluation(record)],
        evaluations=[record for record in records if is_evaluation(record)],
        samples=samples,
        num_samples=num_samples,
        condition=_condition(run, notes),
        notes=notes,
    )


def _samples(directory: Path, notes: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Samples by step, of every n-th file from the newest back if all are too many, and how many there are in all."""
    newest_first = [(file.path, *_size(file.path)) for file in sample_files(directory)[::-1]]
    newest_first = [(path, lines, size) for path, lines, size in newest_first if lines]
    every = 1
    while every < len(newest_first) and (
        sum(lines for _, lines, _ in newest_first[::every]) > MAX_SAMPLES
        or sum(size for _, _, size in newest_first[::every]) > MAX_SAMPLE_BYTES
    ):
        every += 1
    read = [read_samples(path) for path, _, _ in newest_first[::every][::-1]]
    damaged = sum(lines for _, lines in read)
    if damaged:
        notes.append(f"{directory.name}/: {damaged:,} lines cannot be read and were left out.")
    rows = [row for file, _ in read for row in file]
    return rows[-MAX_SAMPLES:], sum(lines for _, lines, _ in newest_first) - damaged


def _size(path: Path) -> tuple[int, int]:
    """Lines and bytes of a file, without reading rows out of it; (0, 0) if it is gone."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0, 0
    return len(content.splitlines()), len(content)


def _config(path: Path, notes: list[str]) -> Mapping[str, Any]:
    if not path.is_file():
        notes.append("config.yaml is missing.")
        return {}
    try:
        return read_yaml(path)
    except ConfigError as error:
        notes.append(str(error))
        return {}


def _condition(run: RunDirectory, notes: list[str]) -> Condition | None:
    """By ``state.json``; None without one."""
    try:
        state = masked(read_state(run), environ=os.environ)
    except CheckpointError as error:
        notes.append(str(error))
        return None
    here = Here(pid_space=pid_space(), started=started_ticks)
    return condition(state, now=time.time(), here=here) if state else None
