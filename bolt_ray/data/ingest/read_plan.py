"""What an ingest has to read: datasets resolved to pieces of files, and the address of the result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from bolt_ray.core.errors import DataError
from bolt_ray.data.ingest.fingerprints import FileScanner
from bolt_ray.data.ingest.hub import hub_arguments, hub_cache, hub_fingerprint, load_hub, split_of
from bolt_ray.data.ingest.known_datasets import known_dataset
from bolt_ray.data.ingest.locate import DataFile, find_files, is_hub_dataset, open_filesystem
from bolt_ray.data.ingest.normalize import RowRules, row_rules
from bolt_ray.data.settings import DatasetSettings

STORE_FORMAT = 3
"""Raised when rows are read or kept in another way: a store of another format is built anew."""

HUB_ROWS_PER_PIECE = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of one input, read by one task from its start to its end.

    Attributes:
        path: file path, URI or Hugging Face name; what messages show.
        format: "json", "jsonl", "parquet", "csv", "arrow" or "hub".
        start, stop: JSONL: bytes; Parquet: row groups; hub: rows; others are read whole. None: to the end.
        first_line: lines (or rows) of the file before this piece.
        options: keyword arguments of the reader: ``delimiter``, ``compressed``, or those of ``load_dataset``.
        size: bytes, about.
    """

    path: str
    format: str
    start: int = 0
    stop: int | None = None
    first_line: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0

    def place(self, line: int) -> str:
        """Where a row stands, for messages: ``train.jsonl, line 3``."""
        word = {"jsonl": "line", "csv": "line", "json": "item"}.get(self.format, "row")
        return f"{self.path}, {word} {line}" if line > 0 else self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadUnit:
    """What one read task reads and one part of the store holds: pieces of one dataset, in order."""

    number: int
    source: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """Everything an ingest needs, determined before it starts.

    Attributes:
        sources: names of the datasets, unique.
        rules: how each dataset's rows are normalized.
        drop_duplicates: per dataset.
        units: all read units, numbered from 0 in dataset and file order.
        address: digest of contents and settings; equal addresses have equal stores.
    """

    sources: tuple[str, ...]
    rules: tuple[RowRules, ...]
    drop_duplicates: tuple[bool, ...]
    units: tuple[ReadUnit, ...]
    address: str


def make_plan(
    datasets: Sequence[DatasetSettings],
    *,
    scanner: FileScanner,
    unit_bytes: int,
    on_bad_row: str,
    max_prompt_chars: int,
) -> ReadPlan:
    """Find the files, fingerprint them and cut them into units of about ``unit_bytes``.

    Raises:
        DataError: a dataset is not there, or two datasets would have one name.
    """
    sources = source_names(datasets)
    rules = tuple(
        row_rules(dataset, preset=preset_of(dataset), max_prompt_chars=max_prompt_chars) for dataset in datasets
    )
    units: list[ReadUnit] = []
    contents = []
    for source, dataset in enumerate(datasets):
        pieces, fingerprint = _hub_pieces(dataset) if is_hub_dataset(dataset) else _file_pieces(dataset, scanner)
        contents.append(fingerprint)
        for group in _grouped(pieces, unit_bytes):
            units.append(ReadUnit(number=len(units), source=source, pieces=tuple(group)))
    scanner.save()
    drop_duplicates = tuple(dataset.filters.drop_duplicates for dataset in datasets)
    described = {
        "format": STORE_FORMAT,
        "unit_bytes": unit_bytes,
        "on_bad_row": on_bad_row,
        "sources": sources,
        "rules": [repr(rule) for rule in rules],
        "drop_duplicates": drop_duplicates,
        "delimiters": [dataset.delimiter for dataset in datasets],
        "contents": contents,
    }
    address = xxhash.xxh3_128_hexdigest(json.dumps(described, sort_keys=True).encode("utf-8"))
    return ReadPlan(
        sources=tuple(sources),
        rules=rules,
        drop_duplicates=drop_duplicates,
        units=tuple(units),
        address=address,
    )


def source_names(datasets: Sequence[DatasetSettings]) -> list[str]:
    """One unique name per dataset: ``source``, else the last part of its name, the whole name, or name:split.

    Raises:
        DataError: two datasets cannot be told apart.
    """
    levels = [
        [dataset.source or _short(dataset.name) for dataset in datasets],
        [dataset.source or dataset.name for dataset in datasets],
        [dataset.source or f"{dataset.name}:{split_of(dataset)}" for dataset in datasets],
    ]
    for names in levels:
        if len(set(names)) == len(names):
            return names
    twice = next(name for name in levels[-1] if levels[-1].count(name) > 1)
    raise DataError(f"two datasets are called '{twice}'; give each its own source: name")


def source_weights(datasets: Sequence[DatasetSettings]) -> dict[str, float] | None:
    """The mixing weights by source name; a dataset without one counts 1. None if no dataset has one."""
    if all(dataset.weight is None for dataset in datasets):
        return None
    weights = [1.0 if dataset.weight is None else dataset.weight for dataset in datasets]
    return dict(zip(source_names(datasets), weights, strict=True))


def preset_of(dataset: DatasetSettings) -> str | None:
    """The preset asked for, or the one of a known Hugging Face name whose columns were not mapped by hand."""
    if dataset.preset is not None or dataset.columns.chosen or dataset.prompt_template is not None:
        return dataset.preset
    if not is_hub_dataset(dataset) or dataset.data_files is not None:
        return None
    known = known_dataset(dataset.name)
    return None if known is None else known.preset


def with_eval_split(dataset: DatasetSettings) -> DatasetSettings:
    """A Hugging Face dataset to evaluate on, with the split that is read: of a known one its test problems."""
    if dataset.split is not None or dataset.data_files is not None or not is_hub_dataset(dataset):
        return dataset
    known = known_dataset(dataset.name)
    return replace(dataset, split=(known.eval_split if known is not None else None) or split_of(dataset))


def _short(name: str) -> str:
    last = PurePosixPath(name.rstrip("/")).name or name
    return last if last.startswith(".") else last.split(".")[0]


def _hub_pieces(dataset: DatasetSettings) -> tuple[list[Piece], list[str]]:
    arguments = hub_arguments(dataset)
    loaded = load_hub(arguments)
    rows = int(loaded.num_rows)
    bytes_per_row = (loaded.info.dataset_size or 0) // max(1, rows) or 1000
    pieces = [
        Piece(
            path=dataset.name,
            format="hub",
            start=start,
            stop=min(rows, start + HUB_ROWS_PER_PIECE),
            first_line=start,
            options=arguments,
            size=HUB_ROWS_PER_PIECE * bytes_per_row,
        )
        for start in range(0, rows, HUB_ROWS_PER_PIECE)
    ]
    return pieces, [repr(arguments), hub_fingerprint(loaded, cache=hub_cache())]


def _file_pieces(dataset: DatasetSettings, scanner: FileScanner) -> tuple[list[Piece], list[str]]:
    pieces: list[Piece] = []
    fingerprints = []
    for file in find_files(dataset):
        fingerprint, cuts = scanner.scan(file)
        fingerprints.append(f"{file.format}:{fingerprint}")
        whole = Piece(
            path=file.path,
            format=file.format,
            options={"delimiter": dataset.delimiter, "compressed": file.compressed},
            size=file.size,
        )
        if file.format == "jsonl":
            stops = [offset for offset, _ in cuts[1:]] + [None]
            for (start, lines), stop in zip(cuts, stops, strict=True):
                size = (stop or file.size) - start
                pieces.append(replace(whole, start=start, stop=stop, first_line=lines, size=size))
        elif file.format == "parquet":
            pieces.extend(_row_groups(whole, file))
        else:
            pieces.append(whole)
    return pieces, fingerprints


def _row_groups(whole: Piece, file: DataFile) -> Iterator[Piece]:
    """One piece per row group, so that a large file is read by several tasks."""
    filesystem, path = open_filesystem(file.path)
    try:
        with filesystem.open_input_file(path) as stream:
            metadata = pq.ParquetFile(stream).metadata
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file.path} is no readable Parquet file: {error}") from error
    row = 0
    for group in range(metadata.num_row_groups):
        size = metadata.row_group(group).total_byte_size
        yield replace(whole, start=group, stop=group + 1, first_line=row, size=size)
        row += metadata.row_group(group).num_rows


def _grouped(pieces: Sequence[Piece], unit_bytes: int) -> Iterator[list[Piece]]:
    """Neighbors together until they reach ``unit_bytes``: many small files make few units."""
    group: list[Piece] = []
    size = 0
    for piece in pieces:
        group.append(piece)
        size += piece.size
        if size >= unit_bytes:
            yield group
            group, size = [], 0
    if group:
        yield group
