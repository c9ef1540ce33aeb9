"""The first rows of a dataset, read without a store and without Ray."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from bolt_ray.core.records import Prompt
from bolt_ray.data.ingest.hub import first_hub_rows, hub_arguments
from bolt_ray.data.ingest.locate import find_files, is_hub_dataset
from bolt_ray.data.ingest.normalize import BadRow, FilteredRow, NormalRow, normalize_row, row_rules
from bolt_ray.data.ingest.read_plan import Piece, preset_of
from bolt_ray.data.ingest.readers import RawRow, read_piece
from bolt_ray.data.settings import DatasetSettings

PREVIEW_ROWS = 20_000
"""Rows read of a dataset: a second or two of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPreview:
    """What the first rows of a dataset become.

    Attributes:
        source: name of the dataset.
        prompts: the good rows, numbered from 0.
        places: where each of them stands.
        read: rows read.
        complete: there are no more.
        left_out: bad and filtered rows, by reason; as in a store, a prompt that comes again is one.
        first_bad: where the first bad row is and what is wrong with it; "" if there is none.
    """

    source: str
    prompts: tuple[Prompt, ...]
    places: tuple[str, ...]
    read: int
    complete: bool
    left_out: Mapping[str, int]
    first_bad: str

    def __str__(self) -> str:
        which = f"{self.read:,} rows" if self.complete else f"its first {self.read:,} rows"
        counts = "".join(f", {count:,} left out ({reason})" for reason, count in self.left_out.items())
        return f"{self.source}: {len(self.prompts):,} prompts in {which}{counts}"


def preview(dataset: DatasetSettings, *, source: str, max_prompt_chars: int) -> DatasetPreview:
    """The first ``PREVIEW_ROWS`` rows; of a Hugging Face dataset only these are downloaded.

    Raises:
        DataError: the dataset cannot be found or read.
    """
    rules = row_rules(dataset, preset=preset_of(dataset), max_prompt_chars=max_prompt_chars)
    prompts: list[Prompt] = []
    places: list[str] = []
    left_out: Counter[str] = Counter()
    seen: dict[str, tuple[NormalRow, str]] = {}
    first_bad, read = "", 0
    rows = _rows(dataset)
    for place, raw in islice(rows, PREVIEW_ROWS):
        read += 1
        normal = BadRow(reason=raw.reason, message=raw.message) if raw.row is None else normalize_row(raw.row, rules)
        if isinstance(normal, NormalRow):
            first, where = seen.setdefault(normal.identity, (normal, place))
            if first is not normal:
                normal = _repeated(normal, first, where, drop=dataset.filters.drop_duplicates)
        if not isinstance(normal, NormalRow):
            left_out[normal.reason] += 1
            if isinstance(normal, BadRow):
                first_bad = first_bad or f"{place}: {normal.message}"
            continue
        places.append(place)
        prompts.append(
            Prompt(
                row=len(prompts),
                key=normal.key,
                prompt=normal.prompt,
                answer=normal.answer,
                source=normal.label or source,
                dataset=source,
                metadata=json.loads(normal.metadata),
            )
        )
    return DatasetPreview(
        source=source,
        prompts=tuple(prompts),
        places=tuple(places),
        read=read,
        complete=next(rows, None) is None,
        left_out=left_out,
        first_bad=first_bad,
    )


def _repeated(row: NormalRow, first: NormalRow, where: str, *, drop: bool) -> NormalRow | BadRow | FilteredRow:
    """What a store makes of a row with the id or the prompt of an earlier one, which stands at ``where``."""
    if row.has_id or first.has_id:
        if row.key != first.key:
            return row
        return BadRow(reason="duplicate_id", message=f"prompt_id '{row.key}' is already used by {where}")
    if not drop:
        return row
    same = row.answer == first.answer
    return FilteredRow(reason="duplicate_prompt" if same else "duplicate_prompt_with_another_answer")


def _rows(dataset: DatasetSettings) -> Iterator[tuple[str, RawRow]]:
    """All rows in order, each with where it stands."""
    if is_hub_dataset(dataset):
        for number, row in enumerate(first_hub_rows(hub_arguments(dataset)), start=1):
            yield f"{dataset.name}, row {number}", RawRow(line=number, row=row)
        return
    for file in find_files(dataset):
        options = {"delimiter": dataset.delimiter, "compressed": file.compressed}
        piece = Piece(path=file.path, format=file.format, options=options)
        for raw in read_piece(piece):
            yield piece.place(raw.line), raw
