"""A run on the terminal, and in its log."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from bolt_ray.core.secrets import masked_text
from bolt_ray.training.telemetry.pace import Pace, duration

log = logging.getLogger("bolt_ray")


def step_numbers(record: Mapping[str, Any]) -> str:
    """What a person wants to know of a step, in a line; what its record lacks is left out."""
    kl, gap = record.get("adaptive_kl/raw_kl"), record.get("policy/logprob_gap")
    length = record.get("completions/mean_length")
    parts = [
        _part("reward {:.3f}", record.get("reward/mean")),
        _part("length {:.1f}", length) + _part(" ({:.0%} cut)", record.get("completions/truncated_fraction")),
        _part("entropy {:.2f}", record.get("policy/entropy")),
        # To the reference; without one, how far generator and learner are apart.
        _part("gap {:.0e}", gap) if kl is None else _part("KL {:.4f}", kl),
        _part("v̂ explains {:z.0%}", record.get("baseline/variance_reduction")),
        _part("{:,.0f} tokens/s", record.get("throughput/tokens_per_second")),
    ]
    return "  ".join(part for part in parts if part)


def eval_numbers(record: Mapping[str, Any]) -> str | None:
    """The score of an evaluation's record, with its interval; None for the record of a step."""
    if "eval/pass@1" not in record:
        return None
    low, high = record["eval/pass@1_low"], record["eval/pass@1_high"]
    return f"{record['eval/pass@1']:.1%} ({low:.1%} to {high:.1%})"


def _part(form: str, value: float | None) -> str:
    return "" if value is None else form.format(value)


class _TwoLines(Progress):
    """The bar, and below it the last step's numbers: both in a line would be wider than most terminals."""

    numbers = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.numbers:
            yield Text(self.numbers)


class ProgressDisplay:
    """A progress bar on a terminal; one line every few seconds where there is none (CI, ``ray job logs``).

    Args:
        total_steps: of the whole run.
        first_step: finished before, where a run is resumed.
        clock: in seconds.
    """

    LINE_EVERY_S = 5.0

    def __init__(
        self,
        *,
        total_steps: int,
        first_step: int,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console or Console()
        self._total = total_steps
        self._clock = clock
        self._last_line = -self.LINE_EVERY_S
        self._pace = Pace()
        self._score = ""
        self._bar = _TwoLines(
            TextColumn("[bold]train"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=total_steps, completed=first_step, left="")

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """An evaluation is done; its score is shown from here on."""
        if "eval/pass@1" in record:
            self._score = f"eval {record['eval/pass@1']:.1%}"

    def step(self, step: int, record: Mapping[str, Any]) -> None:
        now = self._clock()
        self._pace.step(step, now)
        seconds = self._pace.seconds_left(self._total)
        left = "" if seconds is None else f"{duration(seconds)} left"
        self._bar.numbers = "  ".join(part for part in (self._score, step_numbers(record)) if part)
        self._bar.update(self._task, completed=step, left=left)
        if self.console.is_terminal or (now - self._last_line < self.LINE_EVERY_S and step != self._total):
            return
        self._last_line = now
        line = [f"step {step}/{self._total}", self._bar.numbers, left]
        self.console.print("  ".join(part for part in line if part), highlight=False, soft_wrap=True, markup=False)

    def say(self, text: str) -> None:
        """Print a line above the bar, and log it; without secrets, for it may quote what a service answered."""
        text = masked_text(text, environ=os.environ)
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)
        log.info(text)


class _Formatter(logging.Formatter):
    """Leaves out secrets, of tracebacks too."""

    def format(self, record: logging.LogRecord) -> str:
        return masked_text(super().format(record), environ=os.environ)


def open_log(path: Path) -> logging.Handler:
    """Send the project's log records to ``path`` as well."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger("bolt_ray")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    return handler
