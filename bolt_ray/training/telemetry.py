"""Metrics to files and to the terminal."""

from __future__ import annotations

import csv
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bolt_ray.training.run_directory import RunDirectory

log = logging.getLogger("bolt_ray")


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


class StepTimer:
    """Seconds spent in each named phase of a step; ``clock`` gives the time in seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._clock() - start


class ProgressDisplay:
    """A progress bar on a terminal; one line every few seconds where there is none (CI, ``ray job logs``)."""

    LINE_EVERY_S = 5.0

    def __init__(self, *, total_steps: int, first_step: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self._total = total_steps
        self._last_line = 0.0
        self._bar = Progress(
            TextColumn("[bold]train"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=total_steps, completed=first_step, numbers="")

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, step: int, record: Mapping[str, float]) -> None:
        numbers = (
            f"loss {record.get('loss/total', 0.0):+.4f}  reward {record['reward/mean']:.3f}  "
            f"KL {record.get('loss/kl', 0.0):.4f}  v̂ {record.get('baseline/avg_v_hat', 0.5):.3f}  "
            f"{record['throughput/tokens_per_second']:,.0f} tok/s"
        )
        self._bar.update(self._task, completed=step, numbers=numbers)
        now = time.monotonic()
        if not self.console.is_terminal and (now - self._last_line > self.LINE_EVERY_S or step == self._total):
            self._last_line = now
            self.console.print(f"step {step}/{self._total}  {numbers}", highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line above the bar, and log it."""
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)
        log.info(text)


def open_log(path: Path) -> logging.Handler:
    """Send the project's log records to ``path`` as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("bolt_ray")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    return handler
