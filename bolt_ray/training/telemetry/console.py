"""A run on the terminal, and in its log."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

log = logging.getLogger("bolt_ray")


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
