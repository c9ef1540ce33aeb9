"""The record of a run: one line of metrics for each step and each evaluation."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bolt_ray.core.digests import describe_os_error
from bolt_ray.core.files import write_file_atomically
from bolt_ray.training.run_directory import RunDirectory

log = logging.getLogger(__name__)


class MetricsLog:
    """``metrics.jsonl``, appended to, and ``metrics.csv``, the same records as one table.

    The table is rewritten when a record has a new column; otherwise a record is appended.
    """

    def __init__(self, run: RunDirectory, *, keep_up_to_step: int | None = None) -> None:
        """``keep_up_to_step``: after a resume, drop the records of steps that will be trained again."""
        self._jsonl, self._csv = run.metrics_jsonl, run.metrics_csv
        self._columns: list[str] = []
        self._unwritten = b""
        self._failing = False
        self._problem: str | None = None
        kept = [] if keep_up_to_step is None else read_metrics(self._jsonl)
        self.kept = [record for record in kept if record["step"] <= (keep_up_to_step or 0)]
        """The records that were there and stay."""
        self.evaluated = {int(record["step"]) for record in self.kept if is_evaluation(record)}
        """Steps whose evaluation is there."""
        self.last: dict[str, Any] = {name: value for record in self.kept for name, value in record.items()}
        """The newest value of each metric in the records kept."""
        self._begun = False

    def begin(self) -> None:
        """Leave in the files what is kept. The first `write` does so, too, and not before: a start that fails takes
        nothing from the record."""
        # Aside and renamed: a kill at this moment must not cost the record of the whole run.
        text = "".join(_line(record) for record in self.kept)
        write_file_atomically(self._jsonl, lambda file: file.write(text.encode()))
        self._write_table(self.kept)
        self._begun = True

    def write(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Append one record; ``step`` is its number of finished optimizer steps.

        Returns:
            what was written: the record without numbers that are not finite, for JSON has none.
        """
        record = _finite(record)
        if is_evaluation(record):
            self.evaluated.add(int(record["step"]))
        self._unwritten += _line(record).encode()
        try:
            if not self._begun:
                self.begin()
            append_whole(self._jsonl, self._unwritten)
            self._unwritten = b""
            if set(record) <= set(self._columns):
                append_whole(self._csv, _row(record, self._columns))
            else:
                self._write_table(read_metrics(self._jsonl))
        except OSError as error:
            self._columns = []  # the table is written anew as soon as it can be
            if not self._failing:
                log.warning("metrics cannot be written", exc_info=True)
                self._problem = describe_os_error(error)
            self._failing = True
        else:
            self._failing = False
        return record

    def take_problem(self) -> str | None:
        """Why records cannot be written now, told once; they are kept, and written as soon as they can be."""
        problem, self._problem = self._problem, None
        return problem

    def _write_table(self, records: list[dict[str, Any]]) -> None:
        self._columns = list(dict.fromkeys(key for record in records for key in record))
        with self._csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(records)


def append_whole(path: Path, data: bytes) -> None:
    """Append ``data``, all of it or nothing.

    Raises:
        OSError: the disk is full, for example; the file is as before.
    """
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(data):
                written += file.write(data[written:])
        except OSError:
            file.truncate(size)
            raise


def _row(record: Mapping[str, Any], columns: list[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns).writerow(record)
    return text.getvalue().encode()


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if not isinstance(value, float) or math.isfinite(value)}


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def is_evaluation(record: Mapping[str, Any]) -> bool:
    """Whether a record is one of an evaluation, and not of a step."""
    return any(name.startswith("eval/") for name in record)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; lines damaged by a crash are left out, and numbers that are not finite."""
    return read_record(path)[0]


def read_record(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The same, and how many lines are damaged: a last one without its end is being written, and is not."""
    records: list[dict[str, Any]] = []
    damaged = 0
    if path.is_file():
        with path.open("rb") as lines:
            for line in lines:
                record = _record(line)
                if line.endswith(b"\n"):
                    records += [] if record is None else [record]
                    damaged += record is None
    return records, damaged


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line, object_pairs_hook=_shared_keys)
    except ValueError:  # a power cut leaves zeros
        return None
    whole = isinstance(record, dict) and isinstance(record.get("step"), int | float)
    return _finite(record) if whole else None


def _shared_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A record whose names are the same objects as in all other records: half the memory of a long run."""
    return {sys.intern(name): value for name, value in pairs}
