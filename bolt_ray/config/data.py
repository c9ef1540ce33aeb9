"""Datasets: where the prompts come from and how a row becomes a prompt."""

from __future__ import annotations

import string
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from bolt_ray.config.base import Section

PresetName = Literal["gsm8k", "math", "arithmetic"]
FileFormat = Literal["json", "jsonl", "parquet", "csv", "arrow"]
BadRow = Literal["error", "skip"]


class ColumnsConfig(Section):
    """``columns:`` - which column holds what. Columns named here must exist; the defaults for the answer and
    the id may be absent."""

    prompt: str = Field(default="prompt", description="text, or chat messages [{role, content}]")
    answer: str | None = Field(default="answer", description="the reference answer handed to the rewards")
    prompt_id: str | None = Field(default="prompt_id", description="a unique id; null: the key is made from the prompt")
    metadata: list[str] | None = Field(default=None, description="columns kept as metadata; null: all the others")


class FiltersConfig(Section):
    """``filters:`` - good rows that are left out; what they drop is reported."""

    min_chars: int = Field(default=0, ge=0, description="shortest prompt kept, in characters")
    max_chars: PositiveInt | None = Field(default=None, description="longest prompt kept, in characters")
    drop_duplicates: bool = Field(default=True, description="keep the first of several equal prompts")

    @model_validator(mode="after")
    def _ordered(self) -> FiltersConfig:
        if self.max_chars is not None and self.min_chars > self.max_chars:
            raise ValueError(f"min_chars {self.min_chars} is above max_chars {self.max_chars}")
        return self


class DatasetConfig(Section):
    """One entry of ``datasets:``."""

    name: str = Field(
        min_length=1,
        description="a file, a glob, a directory, a cloud path (s3://...) or a Hugging Face name",
    )
    split: str | None = Field(
        None, description="of a directory or a Hugging Face dataset; default: train where there are splits"
    )
    config_name: str | None = Field(None, description="Hugging Face configuration, e.g. 'main' of openai/gsm8k")
    revision: str | None = Field(None, description="Hugging Face revision: a tag, branch or commit")
    data_files: str | list[str] | dict[str, str | list[str]] | None = Field(
        None, description="handed to datasets.load_dataset, e.g. with name 'json'"
    )
    source: str | None = Field(None, min_length=1, description="name in metrics and tables; default: from name")
    weight: PositiveFloat | None = Field(
        None,
        description="share of the draws beside the other datasets; none given: every row counts the same",
    )
    reward: str | None = Field(None, description="the one reward of this dataset; default: all of rewards")
    format: FileFormat | None = Field(None, description="default: from the file name")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="of CSV; default: ',' or tab for .tsv")
    preset: PresetName | None = Field(None, description="columns, answer extraction and prompt of a known dataset")
    columns: ColumnsConfig = ColumnsConfig()
    prompt_template: str | None = Field(None, description="e.g. '{question}\\nAnswer with a number.'")
    chat: bool = Field(False, description="wrap a text prompt as a user message for the chat template")
    system_prompt: str | None = Field(None, description="with chat: true, the first message")
    filters: FiltersConfig = FiltersConfig()

    @field_validator("prompt_template")
    @classmethod
    def _template_has_columns(cls, value: str | None) -> str | None:
        if value is not None:
            template_columns(value)
        return value

    @model_validator(mode="after")
    def _system_prompt_needs_chat(self) -> DatasetConfig:
        if self.system_prompt is not None and not self.chat:
            raise ValueError("system_prompt is a chat message: set chat: true beside it")
        return self


class DataConfig(Section):
    """``data:`` - how the datasets are read and kept."""

    on_bad_row: BadRow = Field("error", description="skip: bad rows go to rejects.jsonl and are counted")
    max_prompt_tokens: PositiveInt = Field(1024, description="longest prompt after template and tokenizer")
    max_prompt_chars: PositiveInt = Field(1_000_000, description="a longer prompt is a bad row")
    store_dir: str = Field(
        "~/.cache/bolt-ray/prompts",
        description="where prompts are kept once read; on a cluster a directory that all nodes share",
    )
    heldout_fraction: float = Field(0.0, ge=0, lt=1, description="share of the prompts kept out for evaluation")
    heldout_size: int = Field(0, ge=0, description="the same as a number of prompts")

    @model_validator(mode="after")
    def _one_heldout(self) -> DataConfig:
        if self.heldout_fraction > 0 and self.heldout_size > 0:
            raise ValueError("give heldout_fraction or heldout_size, not both")
        return self


def template_columns(template: str) -> list[str]:
    """The columns a prompt template names, in order; ``{{`` and ``}}`` stand for braces.

    Raises:
        ValueError: the template is malformed, names no column, or reaches into one (``{a.b}``, ``{a[0]}``).
    """
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"prompt_template: {error}; write {{{{ and }}}} for literal braces") from error
    for name in fields:
        if name == "" or not set(name).isdisjoint(".[]!:"):
            raise ValueError(f"prompt_template: {{{name}}} must be the plain name of a column")
    if not fields:
        raise ValueError("prompt_template names no column: write one as {column}")
    return fields
