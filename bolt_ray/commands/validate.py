"""``bolt-ray validate``: everything that can be said of a config without starting a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from bolt_ray.commands.shared.gpus import resolve_here
from bolt_ray.commands.shared.inference import rewards_by_source
from bolt_ray.commands.shared.inputs import check_inputs, described_model, model_context
from bolt_ray.commands.shared.made_datasets import datasets_as_files
from bolt_ray.commands.shared.model_text import fit_to_tokenizer
from bolt_ray.commands.shared.references import reference_inputs
from bolt_ray.commands.shared.resources import ProcessGroup, describe_memory, describe_step, resource_map, total_demand
from bolt_ray.commands.shared.say import say
from bolt_ray.commands.train.observers import check_logging, describe_logging
from bolt_ray.config.loading import dump_config
from bolt_ray.config.own_code import check_own_code
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import DataError
from bolt_ray.core.records import Prompt
from bolt_ray.core.secrets import masked
from bolt_ray.data.ingest.locate import is_hub_dataset
from bolt_ray.data.ingest.preview import DatasetPreview, preview
from bolt_ray.data.ingest.read_plan import source_names
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.engines.tokenizer import PromptTokenizer
from bolt_ray.rewards.references import ReferenceCheck, check_references

_PROMPT_CHARS = 2_000
_TOKENIZED = 1_000
_CHECKED = 50
"""Answers of a dataset scored against themselves here; a run scores more of them."""


def print_validation(config: RunConfig, *, console: Console) -> None:
    """Print the resolved config, its data as a run would see them, a step in words, memory and the process map.

    No weights are read or downloaded.

    Raises:
        UserError: a model directory or dataset file that the config names is missing, or settings that the learner, the
            generators or the tokenizer would refuse, or a loss or strategy of the user's own cannot be loaded.
    """
    config = resolve_here(config)
    check_logging(config)
    check_inputs(config, download=False)
    own_rewards = check_own_code(config)
    model_path = described_model(config)
    if model_path is not None:
        fit_to_tokenizer(config, model_path)
    train, heldout = datasets_as_files(config, say=partial(say, console), show_progress=False)
    console.rule("resolved config")
    without_secrets = partial(masked, environ=os.environ)
    console.print(Syntax(dump_config(config, show=without_secrets), "yaml", background_color="default", word_wrap=True))
    console.rule("data")
    shown = _Data(config, model_path, console)
    found = [shown.describe(name, dataset) for name, dataset in zip(source_names(train), train, strict=True)]
    if heldout:
        say(console, "Held-out problems:")
        for name, dataset in zip(source_names(heldout), heldout, strict=True):
            shown.describe(name, dataset, evaluation=True)
    shown.say_doubts()
    say(console, _passes(config, found))
    console.rule("one step")
    say(console, describe_step(config))
    say(console, describe_logging(config))
    for line in own_rewards:
        say(console, line)
    if model_path is not None:
        console.rule("memory")
        say(console, describe_memory(config, model_path))
    console.rule("processes")
    console.print(_table(resource_map(config)))


class _Data:
    """Says what the datasets hold."""

    def __init__(self, config: RunConfig, model_path: Path | None, console: Console) -> None:
        self._config = config
        self._console = console
        self._limit = config.data.max_prompt_tokens
        self._tokenize = None if model_path is None else PromptTokenizer.of(str(model_path), config.model)
        if model_path is not None:
            self._limit = min(self._limit, model_context(model_path) - config.sampling.max_new_tokens)
        self._first: list[Prompt] = []

    def describe(self, name: str, dataset: DatasetSettings, *, evaluation: bool = False) -> DatasetPreview | None:
        """One dataset: its rows, one prompt as the model gets it, its answers by their rewards.

        Returns:
            None for a Hugging Face dataset that cannot be had from here, of which it tells.
        """
        try:
            seen = preview(dataset, source=name, max_prompt_chars=self._config.data.max_prompt_chars)
        except DataError as error:
            if not is_hub_dataset(dataset):
                raise
            say(self._console, f"{name} is not looked at: {error}")
            return None
        say(self._console, str(seen))
        if seen.first_bad:
            say(self._console, f"Warning: the first bad row: {seen.first_bad} (data.on_bad_row)")
        if not seen.prompts:
            return seen
        self._first.append(seen.prompts[0])
        self._show(seen.prompts)
        for check in self._references(dataset, seen, evaluation=evaluation):
            say(self._console, f"{'Warning: ' if check.mostly_wrong else ''}{check}")
        return seen

    def say_doubts(self) -> None:
        for doubt in self._tokenize.doubts(self._first) if self._tokenize is not None else ():
            say(self._console, f"Warning: {doubt}")

    def _show(self, prompts: Sequence[Prompt]) -> None:
        first = prompts[0]
        text, count = str(first.prompt), "its tokens are not known: the model is made, or fetched, by the first run"
        if self._tokenize is not None:
            text = self._tokenize.render(first.prompt)
            lengths = [len(token_ids) for token_ids in self._tokenize(prompts[:_TOKENIZED])]
            long = sum(length > self._limit for length in lengths)
            count = f"{lengths[0]:,} tokens; of the first {len(lengths):,}, {long:,} are longer than {self._limit:,}"
        shown = text if len(text) <= _PROMPT_CHARS else f"{text[:_PROMPT_CHARS]}…"
        say(self._console, f"  The first prompt ({count}):")
        self._console.print(Padding(Text(shown), (0, 0, 0, 4)), soft_wrap=False)
        say(self._console, f"  The answer: {first.answer!r}" if first.answer else "  There is no answer.")

    def _references(
        self, dataset: DatasetSettings, seen: DatasetPreview, *, evaluation: bool
    ) -> Sequence[ReferenceCheck]:
        count = min(len(seen.prompts), _CHECKED, self._config.scoring.check_references)
        if count == 0:
            return []
        chosen = np.linspace(0, len(seen.prompts) - 1, count).astype(int).tolist()
        rewards = rewards_by_source([replace(dataset, source=seen.source)])
        return check_references(
            self._config.rewards,
            reference_inputs([seen.prompts[row] for row in chosen], evaluation=evaluation),
            place=lambda index: seen.places[chosen[index]],
            by_source=rewards,
            eval_by_source=rewards,
            startup_timeout_s=self._config.scoring.startup_timeout_s,
        )


def _passes(config: RunConfig, datasets: Sequence[DatasetPreview | None]) -> str:
    """How often the run draws each prompt, on average."""
    seen = [dataset for dataset in datasets if dataset is not None]
    prompts = sum(len(dataset.prompts) for dataset in seen)
    if not config.eval.datasets:
        prompts -= config.data.heldout_size + int(config.data.heldout_fraction * prompts)
    draws = config.train.max_steps * config.rollout.prompts_per_step
    if len(seen) < len(datasets):
        return f"{draws:,} draws; how many prompts there are is not known here."
    if prompts <= 0:
        return "There is no prompt to train on."
    if all(dataset.complete for dataset in seen):
        return f"{draws:,} draws over {prompts:,} prompts: {draws / prompts:.1f} passes over the data."
    return f"{draws:,} draws over more than {prompts:,} prompts: less than {draws / prompts:.1f} passes over the data."


def _table(groups: list[ProcessGroup]) -> Table:
    table = Table("role", "count", "CPUs each", "GPUs each", "CPUs", "GPUs")
    for group in groups:
        table.add_row(
            group.role,
            str(group.count),
            f"{group.cpus:g}",
            f"{group.gpus:g}",
            f"{group.count * group.cpus:g}",
            f"{group.count * group.gpus:g}",
        )
    cpus, gpus = total_demand(groups)
    table.add_section()
    table.add_row("all", str(sum(group.count for group in groups)), "", "", f"{cpus:g}", f"{gpus:g}")
    return table
