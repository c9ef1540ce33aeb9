"""The embedded task from its settings: the tiny model, taught when it is not cached, and the problem files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from transformers.utils.logging import disable_progress_bar

from bolt_ray.config.loading import build_config, load_config
from bolt_ray.core.errors import ConfigError
from bolt_ray.tasks.arithmetic.dataset import ensure_files
from bolt_ray.tasks.arithmetic.pretrain import (
    PretrainProgress,
    PretrainReport,
    default_model_dir,
    ensure_model,
)
from bolt_ray.tasks.arithmetic.settings import ArithmeticSettings, PretrainSettings

DEFAULT_CONFIG = {"datasets": [{"name": "arithmetic"}], "rewards": [{"type": "arithmetic"}]}


def ensure_embedded_model(arithmetic: ArithmeticSettings, *, say: Callable[[str], None], show_progress: bool) -> Path:
    """The pretrained model's directory; teaches it now, in about a minute or two, if it is not cached."""
    if not default_model_dir(arithmetic, cache_dir=arithmetic.cache).is_dir():
        say(f"No cached model: teaching the {arithmetic.size} arithmetic model for {arithmetic.total_steps:,} steps")
    path, report = _teach(arithmetic, cache_dir=arithmetic.cache, show_progress=show_progress)
    say(f"Model: {report.parameters:,} parameters, {100 * report.sampled_accuracy:.0f}% when sampled ({path})")
    return path


def ensure_embedded_files(arithmetic: ArithmeticSettings) -> tuple[Path, Path]:
    """The JSONL files of the training and the held-out problems."""
    try:
        return ensure_files(arithmetic, cache_dir=arithmetic.cache)
    except ValueError as error:
        raise ConfigError(f"arithmetic: {error}") from error


def run_pretraining(
    config_file: Path | None, overrides: Sequence[str], *, output: Path | None, console: Console
) -> None:
    """``bolt-ray pretrain``.

    Raises:
        ConfigError: the config is not usable, or ``output`` is there already.
    """
    config = build_config(dict(DEFAULT_CONFIG)) if config_file is None else load_config(config_file, overrides)
    if output is not None and output.exists():
        raise ConfigError(f"--output {output} is there already; name a new directory")
    path = ensure_embedded_model(config.arithmetic, say=lambda text: console.print(text), show_progress=True)
    if output is not None:
        shutil.copytree(path, output)
        console.print(f"Copied to {output}")


def _quiet_transformers() -> None:
    """Saving a model brings in DeepSpeed, which tells that there is no GPU, and draws a bar for its one file."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    disable_progress_bar()


def _teach(settings: PretrainSettings, *, cache_dir: Path, show_progress: bool) -> tuple[Path, PretrainReport]:
    _quiet_transformers()
    threads = torch.get_num_threads()
    # A model this small is slower on two threads than on one.
    torch.set_num_threads(1)
    bar = Progress(
        TextColumn("[bold]pretrain"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total}  loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(compact=True),
        disable=not show_progress,
        transient=True,
    )
    task = bar.add_task("pretrain", total=settings.total_steps, loss=0.0)

    def on_progress(progress: PretrainProgress) -> None:
        bar.update(task, completed=progress.step, loss=progress.loss)

    try:
        with bar:
            return ensure_model(settings, cache_dir=cache_dir, on_progress=on_progress)
    finally:
        torch.set_num_threads(threads)
