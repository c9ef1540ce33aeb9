"""The Ray Data side of an ingest: one read task per unit, streaming normalized rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from bolt_ray.core.baseline.prompt_features import NUM_FEATURES, prompt_features, prompt_text
from bolt_ray.core.errors import DataError
from bolt_ray.data.ingest.normalize import BadRow, FilteredRow, RowRules, key_hash, normalize_row
from bolt_ray.data.ingest.read_plan import ReadUnit
from bolt_ray.data.ingest.readers import RawRow, read_piece
from bolt_ray.data.store_files import CHUNK_ROWS, PART_SCHEMA

ROW, BAD, FILTERED, UNREADABLE = range(4)
NO_FEATURES = bytes(2 * NUM_FEATURES)
"""Kinds of rows in a block: a prompt; a bad row; one a filter left out; a file that cannot be read at all."""

BLOCK_SCHEMA = pa.schema(
    [
        ("unit", pa.int32()),
        ("kind", pa.int8()),
        ("reason", pa.string()),
        ("message", pa.large_string()),
        *list(PART_SCHEMA),
    ]
)
BLOCK_TEXT_BYTES = 8 << 20
TARGET_BLOCK_BYTES = 16 << 20
TASK_CPUS = 0.25
"""Reading waits for disks more than it computes, and the generators and learners need the CPUs."""

CHATTY_LOGGERS = (
    "ray.data._internal.execution.streaming_executor",
    "ray.data._internal.progress",
    "ray.data._internal.logging",
)
"""Ray Data logs several lines per execution, and there is one execution per window."""

_EXCERPT_CHARS = 200


class UnitDatasource(Datasource):  # type: ignore[misc]
    """Reads units of datasets, one read task each."""

    def __init__(self, units: Sequence[ReadUnit], rules: Sequence[RowRules]) -> None:
        super().__init__()
        self._units = units
        self._rules = rules

    def get_name(self) -> str:
        return "Prompts"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [
            ReadTask(partial(unit_tables, unit, self._rules[unit.source]), unknown, schema=BLOCK_SCHEMA)
            for unit in self._units
        ]


def quiet_dataset(dataset: Any) -> Any:
    """Switch off progress bars and start-up lines of one dataset; its blocks come in order."""
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = TARGET_BLOCK_BYTES
    context.execution_options.preserve_order = True
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    return dataset


def read_units(units: Sequence[ReadUnit], rules: Sequence[RowRules]) -> Iterator[pa.Table]:
    """Blocks of all units in order, as Ray Data finishes them. Columns: ``BLOCK_SCHEMA``."""
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    dataset = ray.data.read_datasource(
        UnitDatasource(units, rules),
        override_num_blocks=len(units),
        num_cpus=TASK_CPUS,
        concurrency=min(cpus, len(units)),
    )
    yield from quiet_dataset(dataset).iter_batches(batch_size=None, batch_format="pyarrow")


def read_units_here(units: Sequence[ReadUnit], rules: Sequence[RowRules]) -> Iterator[pa.Table]:
    """`read_units` in this process, without Ray."""
    for unit in units:
        yield from unit_tables(unit, rules[unit.source])


def unit_tables(unit: ReadUnit, rules: RowRules) -> Iterator[pa.Table]:
    """Read and normalize a unit; runs inside a Ray Data read task. Tables of ``BLOCK_SCHEMA``."""
    block = _Block(unit.number)
    record = 0
    for number, piece in enumerate(unit.pieces):
        try:
            for raw in read_piece(piece):
                block.add(raw, rules, piece=number, record=record)
                record += 1
                if block.full:
                    yield block.table()
        except DataError as error:
            # Travels as data, so that the driver raises it in file order and as it is.
            block.add_unreadable(str(error), piece=number)
    if block.num_rows:
        yield block.table()


class _Block:
    """Collects rows column by column."""

    def __init__(self, unit: int) -> None:
        self._unit = unit
        self._rows: list[tuple[Any, ...]] = []
        self._text_bytes = 0

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    @property
    def full(self) -> bool:
        return len(self._rows) >= CHUNK_ROWS or self._text_bytes >= BLOCK_TEXT_BYTES

    def add(self, raw: RawRow, rules: RowRules, *, piece: int, record: int) -> None:
        place = (piece, raw.line, record)
        if raw.row is None:
            self._add(BAD, raw.reason, raw.message, place)
            return
        result = normalize_row(raw.row, rules)
        if isinstance(result, BadRow):
            excerpt = _excerpt(raw.row)
            self._add(BAD, result.reason, result.message, place, prompt=excerpt)
        elif isinstance(result, FilteredRow):
            self._add(FILTERED, result.reason, "", place)
        else:
            prompt = json.dumps(result.prompt, ensure_ascii=False)
            self._text_bytes += len(prompt) + len(result.answer) + len(result.metadata)
            self._rows.append(
                (
                    self._unit,
                    ROW,
                    "",
                    "",
                    result.key,
                    key_hash(result.identity),
                    result.has_id,
                    prompt,
                    result.answer,
                    result.metadata,
                    result.label,
                    *place,
                    prompt_features([prompt_text(result.prompt)]).astype("<u2").tobytes(),
                )
            )

    def add_unreadable(self, message: str, *, piece: int) -> None:
        self._add(UNREADABLE, "unreadable", message, (piece, 0, 0))

    def table(self) -> pa.Table:
        columns = zip(*self._rows, strict=True)
        arrays = [pa.array(list(column), field.type) for column, field in zip(columns, BLOCK_SCHEMA, strict=True)]
        self._rows, self._text_bytes = [], 0
        return pa.Table.from_arrays(arrays, schema=BLOCK_SCHEMA)

    def _add(self, kind: int, reason: str, message: str, place: tuple[int, int, int], *, prompt: str = "") -> None:
        self._rows.append((self._unit, kind, reason, message, "", 0, False, prompt, "", "", "", *place, NO_FEATURES))


def _excerpt(row: dict[str, Any]) -> str:
    """The beginning of a bad row, for rejects.jsonl; short whatever the row holds."""
    text = ", ".join(f"{name}: {str(value)[:_EXCERPT_CHARS]!r}" for name, value in list(row.items())[:8])
    return text[:_EXCERPT_CHARS].encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRow:
    """What the driver looks at of a row that is no prompt."""

    kind: int
    reason: str
    message: str
    excerpt: str
    piece: int
    line: int
    record: int


def rows_of_kind(table: pa.Table, kinds: tuple[int, ...]) -> list[BlockRow]:
    """The rows of a block that are bad, filtered or unreadable."""
    mask = pc.is_in(table["kind"], pa.array(kinds, pa.int8()))
    picked = table.filter(mask).select(["kind", "reason", "message", "prompt", "piece", "line", "record"])
    return [
        BlockRow(
            kind=row["kind"],
            reason=row["reason"],
            message=row["message"],
            excerpt=row["prompt"],
            piece=row["piece"],
            line=row["line"],
            record=row["record"],
        )
        for row in picked.to_pylist()
    ]
