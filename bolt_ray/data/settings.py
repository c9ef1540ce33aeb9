"""Settings of the prompts: where they come from (``datasets:``) and how they are read and kept (``data:``)."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bolt_ray.core.settings import SettingError, Settings, require_choice, setting
from bolt_ray.data.ingest.known_datasets import preset_names

FileFormat = Literal["json", "jsonl", "parquet", "csv", "arrow"]
BadRow = Literal["error", "skip"]
LongPrompt = Literal["skip", "error"]

AUTO = "auto"

TASK_PREFIX = "reasoning_gym/"
"""Names of data sets that are made: ``reasoning_gym/<task>``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSettings(Settings):
    """``columns:`` - which column holds what; a path (``reward_model.ground_truth``) names a part of a nested one.

    Columns named here must exist.
    """

    prompt: str = setting(
        AUTO,
        "text, or chat messages [{role, content}]; auto: the preset's, else the first with a value of 'prompt', "
        "'messages', 'question', 'problem'",
    )
    answer: str | None = setting(
        AUTO,
        "the reference answer; auto: the preset's, else 'answer', 'ground_truth', 'solution', 'label', 'labels' or "
        "'reward_model.ground_truth', which must agree, else the reply that closes chat messages; null: none",
    )
    prompt_id: str | None = setting(
        AUTO,
        "a unique id; auto: 'prompt_id', else a key made from the prompt, behind 'extra_info.index' or 'id' where "
        "there is one; null: a key made from the prompt alone",
    )
    metadata: tuple[str, ...] | None = setting(None, "columns kept as metadata; null: all the others")

    @property
    def chosen(self) -> frozenset[str]:
        """Which of prompt, answer and prompt_id were named: these must exist."""
        return frozenset(name for name in ("prompt", "answer", "prompt_id") if getattr(self, name) != AUTO)


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings(Settings):
    """``filters:`` - good rows that are left out; what they drop is reported."""

    min_chars: int = setting(0, "shortest prompt kept", unit="characters", ge=0)
    max_chars: int | None = setting(None, "longest prompt kept", unit="characters", ge=1)
    drop_duplicates: bool = setting(True, "keep the first of several equal prompts")

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.max_chars is not None and self.min_chars > self.max_chars:
            raise SettingError("min_chars", f"{self.min_chars} is above max_chars {self.max_chars}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSettings(Settings):
    """One entry of ``datasets:`` or ``eval.datasets:``."""

    name: str = setting(
        ...,
        "a file, a glob, a directory, a cloud path (s3://...), a Hugging Face name, or reasoning_gym/TASK",
        min_length=1,
    )
    size: int | None = setting(None, "reasoning_gym: distinct problems to make", unit="problems", ge=1)
    seed: int = setting(0, "reasoning_gym: of the problems", ge=0)
    options: dict[str, Any] = setting({}, "reasoning_gym: of the task, as the library has them, e.g. {min_terms: 2}")
    split: str | None = setting(
        None,
        "of a directory or a Hugging Face dataset; default: train where there are splits, test where a known Hugging "
        "Face dataset is evaluated on",
    )
    config_name: str | None = setting(None, "Hugging Face configuration, e.g. 'main' of openai/gsm8k")
    revision: str | None = setting(None, "Hugging Face revision: a tag, branch or commit")
    data_files: str | tuple[str, ...] | dict[str, str | tuple[str, ...]] | None = setting(
        None, "handed to datasets.load_dataset, e.g. with name 'json'"
    )
    source: str | None = setting(
        None, "name in metrics and tables; default: the row's data_source, else from name", min_length=1
    )
    weight: float | None = setting(
        None, "share of the draws beside the other datasets; none given: every row counts the same", gt=0
    )
    reward: str | dict[str, str] | None = setting(
        None, "the one reward of this dataset, or one for each data_source in it; default: all of rewards"
    )
    format: FileFormat | None = setting(None, "default: from the file name")
    delimiter: str | None = setting(None, "of CSV; default: ',' or tab for .tsv", min_length=1, max_length=1)
    preset: str | None = setting(None, "columns, answer extraction and prompt of a known dataset", choices=preset_names)
    columns: ColumnSettings = setting(ColumnSettings(), "which column holds what")
    prompt_template: str | None = setting(None, "e.g. '{question}\\nAnswer with a number.'")
    chat: bool = setting(False, "wrap a text prompt as a user message for the chat template")
    system_prompt: str | None = setting(None, "with chat: true, the first message")
    filters: FilterSettings = setting(FilterSettings(), "good rows that are left out")

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.preset is not None:
            require_choice("preset", self.preset, preset_names())
        if self.prompt_template is not None:
            template_columns(self.prompt_template)
        if self.system_prompt is not None and not self.chat:
            raise SettingError("system_prompt", "is a chat message: set chat: true beside it")
        made = {"size": self.size, "seed": self.seed, "options": self.options}
        if self.task is None:
            for key in [key for key, value in made.items() if value]:
                raise SettingError(key, f"is of data that are made, as {TASK_PREFIX}chain_sum; {self.name} is read")
        elif self.size is None:
            raise SettingError("size", f"is needed: how many problems of {self.name} to make")

    @property
    def task(self) -> str | None:
        """The task of reasoning-gym whose problems this is made of; None for data that are read."""
        return self.name.removeprefix(TASK_PREFIX) if self.name.startswith(TASK_PREFIX) else None

    @property
    def rewards(self) -> tuple[str | None, ...]:
        """The rewards that its rows get, one each; None: all of them."""
        return tuple(self.reward.values()) if isinstance(self.reward, Mapping) else (self.reward,)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings(Settings):
    """``data:`` - how the datasets are read and kept."""

    on_bad_row: BadRow = setting("error", "skip: bad rows go to rejects.jsonl and are counted")
    max_prompt_tokens: int = setting(1024, "longest prompt after template and tokenizer", unit="tokens", ge=1)
    on_long_prompt: LongPrompt = setting(
        "skip", "a prompt longer than that (or than the model's context leaves) is left out and counted; error: stop"
    )
    max_prompt_chars: int = setting(1_000_000, "a longer prompt is a bad row", unit="characters", ge=1)
    store_dir: str = setting(
        "~/.cache/bolt-ray/prompts",
        "where prompts are kept once read; on a cluster a directory that all nodes share",
    )
    heldout_fraction: float = setting(0.0, "share of the prompts kept out for evaluation", ge=0, lt=1)
    heldout_size: int = setting(0, "the same as a number of prompts", unit="prompts", ge=0)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.heldout_fraction > 0 and self.heldout_size > 0:
            raise SettingError("heldout_size", "and heldout_fraction say the same: give one of them")


def template_columns(template: str) -> list[str]:
    """The columns a prompt template names, in order; ``{{`` and ``}}`` stand for braces.

    Raises:
        SettingError: the template is malformed, names no column, or reaches into one (``{a.b}``, ``{a[0]}``).
    """
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise SettingError(
            "prompt_template", f"is malformed: {error}; write {{{{ and }}}} for literal braces"
        ) from error
    for name in fields:
        if name == "" or not set(name).isdisjoint(".[]!:"):
            raise SettingError("prompt_template", f"{{{name}}} must be the plain name of a column")
    if not fields:
        raise SettingError("prompt_template", "names no column: write one as {column}")
    return fields
