"""The parts a prompt store is made of: Arrow IPC files in record batches of 1,024 rows, memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bolt_ray.core.baseline.prompt_features import NUM_FEATURES
from bolt_ray.core.files import fsync_path, write_file_atomically

CHUNK_ROWS = 1024

PART_SCHEMA = pa.schema(
    [
        ("key", pa.large_string()),
        ("key_hash", pa.uint64()),
        ("has_id", pa.bool_()),
        ("prompt", pa.large_string()),
        ("answer", pa.large_string()),
        ("metadata", pa.large_string()),
        ("label", pa.string()),
        ("piece", pa.int32()),
        ("line", pa.int64()),
        ("record", pa.int64()),
        ("features", pa.binary(2 * NUM_FEATURES)),
    ]
)
"""One row of a part.

key_hash: of what tells prompts apart, the row's id or the prompt; prompt and metadata are JSON texts; label: the data
set the row says it is of, "" if it says none; piece, line: where the row stands; record: its number among all rows of
its read unit, good or bad, from 0; features: of the prompt's text, see ``core.baseline.prompt_features``.
"""


def part_path(directory: Path, number: int) -> Path:
    return directory / f"part-{number:05d}.arrow"


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    write_file_atomically(path, lambda file: file.write(text.encode("utf-8")))


class PartWriter:
    """Writes one part aside and renames it when it is complete.

    Every record batch but the last has exactly 1,024 rows, so a row's batch is found by division.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._aside = path.with_name(path.name + ".tmp")
        self._writer = pa.ipc.new_file(str(self._aside), PART_SCHEMA)
        self._pending: list[Any] = []
        self._num_pending = 0
        self.num_rows = 0

    def write(self, table: pa.Table) -> None:
        """Append rows of the part's schema."""
        self._pending.append(table)
        self._num_pending += table.num_rows
        self.num_rows += table.num_rows
        if self._num_pending < CHUNK_ROWS:
            return
        rows = pa.concat_tables(self._pending)
        whole = rows.num_rows - rows.num_rows % CHUNK_ROWS
        for start in range(0, whole, CHUNK_ROWS):
            self._write_chunk(rows.slice(start, CHUNK_ROWS))
        self._pending = [rows.slice(whole)]
        self._num_pending = rows.num_rows - whole

    def finish(self) -> None:
        if self._num_pending:
            self._write_chunk(pa.concat_tables(self._pending))
        self._writer.close()
        fsync_path(self._aside)
        self._aside.replace(self._path)

    def abandon(self) -> None:
        self._writer.close()
        self._aside.unlink(missing_ok=True)

    def _write_chunk(self, table: pa.Table) -> None:
        for batch in table.combine_chunks().to_batches():
            self._writer.write_batch(batch)


class PartsReader:
    """Random access to the rows of all parts by physical row number, as the parts lie one after another.

    Args:
        directory: where the parts are.
        counts: rows of each part, in order.

    Attributes:
        starts: int64 [parts + 1], the first row of each part, and the number of rows.
    """

    def __init__(self, directory: Path, counts: Sequence[int]) -> None:
        self._directory = directory
        self.starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._files: dict[int, Any] = {}

    @property
    def num_rows(self) -> int:
        return int(self.starts[-1])

    def part_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of the part each physical row lies in."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def take(self, rows: NDArray[np.int64], columns: Sequence[str] | None = None) -> pa.Table:
        """Rows by physical number, in the order asked for; only the chunks they lie in are touched."""
        schema = PART_SCHEMA if columns is None else pa.schema([PART_SCHEMA.field(name) for name in columns])
        if rows.size == 0:
            return schema.empty_table()
        parts = self.part_of(rows)
        chunks, places = np.divmod(rows - self.starts[parts], CHUNK_ROWS)
        batches: dict[tuple[int, int], Any] = {}
        slices = []
        for part, chunk, place in zip(parts.tolist(), chunks.tolist(), places.tolist(), strict=True):
            batch = batches.get((part, chunk))
            if batch is None:
                batch = self._file(part).get_batch(chunk)
                batch = batches[part, chunk] = batch if columns is None else batch.select(list(columns))
            # Slicing costs a microsecond where Arrow's take of a single row costs thirty.
            slices.append(batch.slice(place, 1))
        return pa.Table.from_batches(slices, schema).combine_chunks()

    def columns(self, names: Sequence[str]) -> Iterator[pa.Table]:
        """Some columns of all rows, one table per part that has rows."""
        for number in range(len(self.starts) - 1):
            if self.starts[number + 1] > self.starts[number]:
                yield self._file(number).read_all().select(list(names))

    def _file(self, number: int) -> Any:
        if number not in self._files:
            self._files[number] = pa.ipc.open_file(pa.memory_map(str(part_path(self._directory, number))))
        return self._files[number]
