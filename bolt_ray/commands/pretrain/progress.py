"""What is seen of a teaching while it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils.logging import disable_progress_bar


@contextmanager
def teaching_bar(steps: int, *, show: bool) -> Iterator[Callable[[int, str], None]]:
    """A bar over so many steps, told how many are done and what to say of them; one thread while it is there."""
    # Saving a model brings in DeepSpeed, which tells that there is no GPU, and draws a bar for its one file.
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    disable_progress_bar()
    threads = torch.get_num_threads()
    # A model this small is slower on two threads than on one.
    torch.set_num_threads(1)
    bar = Progress(
        TextColumn("[bold]pretrain"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}  {task.fields[words]}"),
        TimeRemainingColumn(compact=True),
        disable=not show,
        transient=True,
    )
    task = bar.add_task("pretrain", total=steps, words="")
    try:
        with bar:
            yield lambda done, words: bar.update(task, completed=done, words=words)
    finally:
        torch.set_num_threads(threads)
