"""The datasets that are made rather than read: the embedded problems, and those of reasoning-gym's tasks, as files."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError
from bolt_ray.data.ingest.read_plan import with_eval_split
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.tasks.arithmetic.dataset import ensure_files
from bolt_ray.tasks.arithmetic.settings import ArithmeticSettings
from bolt_ray.tasks.reasoning_gym.dataset import TaskProblems, ensure_problems
from bolt_ray.tasks.reasoning_gym.library import make_task

EMBEDDED = "arithmetic"
"""The name under which the embedded model, and the embedded dataset, are asked for."""

Datasets = tuple[DatasetSettings, ...]


def is_made(dataset: DatasetSettings) -> bool:
    """Whether a dataset is made here, and not read from where its name says."""
    return dataset.name == EMBEDDED or dataset.task is not None


def check_made(dataset: DatasetSettings) -> None:
    """Whether a dataset can be made; makes nothing.

    Raises:
        EnvironmentProblem, ConfigError: reasoning-gym is not installed, or has no such task or option.
    """
    if dataset.task is not None:
        make_task(dataset.task, seed=dataset.seed, options=dataset.options)


def datasets_as_files(
    config: RunConfig, *, say: Callable[[str], None], show_progress: bool
) -> tuple[Datasets, Datasets]:
    """The datasets to train on and to evaluate on, each as one that is read.

    No problem of an evaluation is among those to train on: of the embedded ones by their digests, of a task's by
    leaving them out. The embedded held-out problems are evaluated on where nothing else is said, and the test split of
    a known Hugging Face dataset that names none.

    Raises:
        UserError: a dataset cannot be made.
    """

    def made(entry: DatasetSettings, without: Sequence[DatasetSettings] = ()) -> DatasetSettings:
        if entry.task is None:
            return entry
        wanted = _problems(entry, [other for other in without if other.task == entry.task])
        path = _made_file(wanted, config, say=say, show_progress=show_progress)
        return replace(
            entry, name=str(path), source=entry.source or entry.task, size=None, seed=0, options={}, format=None
        )

    train, heldout = list(config.datasets), list(config.eval.datasets)
    if config.datasets is config.eval.datasets:  # an evaluation, which trains on nothing
        train = []
    evaluated = tuple(heldout)
    for index, dataset in enumerate(train):
        if dataset.name == EMBEDDED:
            files = embedded_files(config.arithmetic)
            train[index] = replace(dataset, name=str(files[0]), source=dataset.source or EMBEDDED)
            if not evaluated and config.data.heldout_fraction == 0 and config.data.heldout_size == 0:
                heldout = [DatasetSettings(name=str(files[1]), source=EMBEDDED, reward=dataset.reward)]
        else:
            train[index] = made(dataset, evaluated)
    for index, dataset in enumerate(heldout):
        if dataset.name == EMBEDDED:
            path = str(embedded_files(config.arithmetic)[1])
            heldout[index] = replace(dataset, name=path, source=dataset.source or EMBEDDED)
        else:
            heldout[index] = with_eval_split(made(dataset))
            if heldout[index].split != dataset.split:
                say(f"Evaluating on the split '{heldout[index].split}' of {dataset.name}; another one: split")
    return tuple(train or heldout), tuple(heldout)


def embedded_files(arithmetic: ArithmeticSettings) -> tuple[Path, Path]:
    """The JSONL files of the embedded task's training and held-out problems.

    Raises:
        ConfigError: the settings give too few different problems.
    """
    try:
        return ensure_files(arithmetic, cache_dir=arithmetic.cache)
    except ValueError as error:
        raise ConfigError(f"arithmetic: {error}") from error


def _problems(entry: DatasetSettings, without: Sequence[DatasetSettings] = ()) -> TaskProblems:
    assert entry.task is not None and entry.size is not None, "DatasetSettings asks for a size"
    return TaskProblems(
        task=entry.task,
        size=entry.size,
        seed=entry.seed,
        options=entry.options,
        without=tuple(_problems(other) for other in without),
    )


def _made_file(wanted: TaskProblems, config: RunConfig, *, say: Callable[[str], None], show_progress: bool) -> Path:
    """Beside the prompt stores, which on a cluster are where every node reads."""
    cache = Path(config.data.store_dir).expanduser().absolute() / "reasoning_gym"
    if wanted.directory(cache).is_dir():
        return ensure_problems(wanted, cache_dir=cache, on_progress=lambda done: None)
    started = time.monotonic()
    bar = Progress(
        TextColumn(f"[bold]{wanted.task}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        disable=not show_progress,
        transient=True,
    )
    row = bar.add_task("problems", total=wanted.size)
    with bar:
        path = ensure_problems(wanted, cache_dir=cache, on_progress=lambda done: bar.update(row, completed=done))
    say(f"Made {wanted.size:,} problems of {wanted.task} in {time.monotonic() - started:.0f} s ({path})")
    return path
