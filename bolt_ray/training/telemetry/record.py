"""The record of a run: one line of metrics for each step and each evaluation."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bolt_ray.training.run_directory import RunDirectory


class MetricsLog:
    """``metrics.jsonl``, appended to, and ``metrics.csv``, the same records as one table.

    The table is rewritten when a record has a new column; otherwise a record is appended.
    """

    def __init__(self, run: RunDirectory, *, keep_up_to_step: int | None = None) -> None:
        """``keep_up_to_step``: after a resume, drop the records of steps that will be trained again."""
        self._jsonl, self._csv = run.metrics_jsonl, run.metrics_csv
        self._columns: list[str] = []
        self.evaluated: set[int] = set()
        """Steps whose evaluation is there."""
        kept = [] if keep_up_to_step is None else read_metrics(self._jsonl)
        kept = [record for record in kept if record["step"] <= (keep_up_to_step or 0)]
        self.last: dict[str, Any] = {name: value for record in kept for name, value in record.items()}
        """The newest value of each metric in the records kept."""
        self._jsonl.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        self._write_table(kept)
        self.evaluated = {int(record["step"]) for record in kept if _is_evaluation(record)}

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; ``step`` is its number of finished optimizer steps."""
        if _is_evaluation(record):
            self.evaluated.add(int(record["step"]))
        with self._jsonl.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        if set(record) <= set(self._columns):
            with self._csv.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(record)
        else:
            self._write_table(read_metrics(self._jsonl))

    def _write_table(self, records: list[dict[str, Any]]) -> None:
        self._columns = list(dict.fromkeys(key for record in records for key in record))
        with self._csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(records)


def _is_evaluation(record: Mapping[str, Any]) -> bool:
    return any(name.startswith("eval/") for name in record)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; a last line torn by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
