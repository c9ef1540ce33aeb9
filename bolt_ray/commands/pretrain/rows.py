"""A tiny model taught from the rows of a configuration's datasets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bolt_ray.commands.pretrain.progress import teaching_bar
from bolt_ray.commands.shared.made_datasets import datasets_as_files
from bolt_ray.commands.shared.prompts import open_store
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError, DataError
from bolt_ray.core.files import ensure_directory
from bolt_ray.data.ingest.build import build_store
from bolt_ray.data.ingest.ingest_source import read_units_here
from bolt_ray.data.store import PromptStore
from bolt_ray.tasks.tiny.rows import RowPretrainReport, teach_rows
from bolt_ray.tasks.tiny.teaching import Demonstration


def teach_from_datasets(config: RunConfig, output: Path, *, say: Callable[[str], None], show_progress: bool) -> None:
    """Teach a new model the rows of ``datasets``, without those that are held out, and write it to ``output``.

    Raises:
        UserError: a dataset cannot be used, a row cannot be taught, or nothing is held out.
    """
    train, heldout = _demonstrations(config, say=say, show_progress=show_progress)
    settings = config.pretrain
    heldout = heldout[: settings.eval_rows]
    say(f"Teaching a {settings.size} model {len(train):,} rows, at most {settings.steps:,} steps")
    reports: list[RowPretrainReport] = []

    def write(directory: Path) -> None:
        with teaching_bar(settings.steps, show=show_progress) as update:

            def on_step(step: int, loss: float, accuracy: float | None) -> None:
                found = "" if accuracy is None else f"  {100 * accuracy:.0f}% right"
                update(step, f"loss {loss:.3f}{found}")

            try:
                report = teach_rows(
                    train, heldout, settings, directory, room=config.sampling.max_new_tokens, on_step=on_step
                )
            except ValueError as error:
                raise DataError(f"datasets: {error}") from error
        reports.append(report)

    ensure_directory(output, write=write)
    (report,) = reports
    say(
        f"Model: {report.parameters:,} parameters, context {report.context_length:,}, {report.steps:,} steps in "
        f"{report.seconds:.0f} s; of {report.heldout_rows:,} held-out rows right: "
        f"{100 * report.sampled_accuracy:.0f}% when sampled, {100 * report.greedy_accuracy:.0f}% greedily"
    )
    say(f"Train it with model.name_or_path: {output}")


def _demonstrations(
    config: RunConfig, *, say: Callable[[str], None], show_progress: bool
) -> tuple[list[Demonstration], list[Demonstration]]:
    train_sets, heldout_sets = datasets_as_files(config, say=say, show_progress=show_progress)
    # Reading needs no cluster here, and what is read is found again by the training.
    build = partial(build_store, read=read_units_here)
    store = open_store(train_sets, config, build=build)
    rows, heldout_rows = store.split_heldout(fraction=config.data.heldout_fraction, size=config.data.heldout_size)
    heldout_store = store
    if heldout_sets:
        heldout_store = open_store(heldout_sets, config, build=build)
        heldout_rows = np.arange(heldout_store.num_rows, dtype=np.int64)
    if not len(heldout_rows):
        raise ConfigError(
            "there are no held-out rows to measure the model on: name some in eval.datasets, or set data.heldout_size"
        )
    completion = config.pretrain.completion
    return _rows(store, rows, completion), _rows(heldout_store, heldout_rows, completion)


def _rows(store: PromptStore, rows: NDArray[np.int64], completion: str) -> list[Demonstration]:
    found = []
    for prompt in store.read(rows):
        if not isinstance(prompt.prompt, str):
            raise DataError(
                f"{store.place(prompt.row)}: a tiny model has no chat template; the prompt must be a text, not messages"
            )
        if not prompt.answer:
            raise DataError(f"{store.place(prompt.row)}: the row has no answer to teach; see columns: of the dataset")
        found.append((prompt.prompt, completion.format(answer=prompt.answer)))
    return found
