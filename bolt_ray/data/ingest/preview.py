"""The first prompts of datasets, read without a store and without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from bolt_ray.core.records import Prompt
from bolt_ray.data.ingest.locate import find_files
from bolt_ray.data.ingest.normalize import NormalRow, normalize_row, row_rules
from bolt_ray.data.ingest.read_plan import Piece, preset_of, source_names
from bolt_ray.data.ingest.readers import read_piece
from bolt_ray.data.settings import DatasetSettings

LOOKED_AT = 100
"""Rows of a dataset among which its first good one is looked for."""


def first_prompts(datasets: Sequence[DatasetSettings], *, max_prompt_chars: int) -> list[Prompt]:
    """The first good row of each dataset of files; a dataset without one near its beginning is left out.

    Raises:
        DataError: a file cannot be found or read.
    """
    found = []
    for source, dataset in zip(source_names(datasets), datasets, strict=True):
        rules = row_rules(dataset, preset=preset_of(dataset), max_prompt_chars=max_prompt_chars)
        file = find_files(dataset)[0]
        options = {"delimiter": dataset.delimiter, "compressed": file.compressed}
        rows = islice(read_piece(Piece(path=file.path, format=file.format, options=options)), LOOKED_AT)
        for normal in (normalize_row(raw.row, rules) for raw in rows if raw.row is not None):
            if isinstance(normal, NormalRow):
                found.append(Prompt(row=0, key=normal.key, prompt=normal.prompt, answer=normal.answer, source=source))
                break
    return found
