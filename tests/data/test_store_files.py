from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from bolt_ray.data.store_files import CHUNK_ROWS, PART_SCHEMA, PartsReader, PartWriter, part_path


def rows(start: int, stop: int) -> pa.Table:
    numbers = range(start, stop)
    text = [f"k{number}" for number in numbers]
    none, features = [0] * len(text), [bytes(22)] * len(text)
    columns = [text, numbers, [False] * len(text), text, text, text, text, none, numbers, numbers, features]
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, PART_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=PART_SCHEMA)


def write(directory: Path, number: int, *tables: pa.Table) -> int:
    writer = PartWriter(part_path(directory, number))
    for table in tables:
        writer.write(table)
    writer.finish()
    return writer.num_rows


def test_rows_are_found_in_any_order_over_parts(tmp_path: Path) -> None:
    counts = [
        write(tmp_path, 0, rows(0, 700), rows(700, 3000)),
        write(tmp_path, 1),
        write(tmp_path, 2, rows(3000, 3005)),
    ]
    assert counts == [3000, 0, 5]
    with pa.memory_map(str(part_path(tmp_path, 0))) as stream:
        file = pa.ipc.open_file(stream)
        sizes = [file.get_batch(number).num_rows for number in range(file.num_record_batches)]
    assert sizes == [CHUNK_ROWS, CHUNK_ROWS, 3000 - 2 * CHUNK_ROWS]
    reader = PartsReader(tmp_path, counts)
    wanted = np.array([3004, 0, 2999, 1024, 0, 3000, 1023])
    assert reader.take(wanted)["line"].to_pylist() == wanted.tolist()
    assert reader.take(wanted, ["key"]).column_names == ["key"]
    assert reader.part_of(wanted).tolist() == [2, 0, 0, 0, 0, 2, 0]
    assert reader.take(np.empty(0, np.int64)).num_rows == 0
    assert [table.num_rows for table in reader.columns(["key"])] == [3000, 5]


def test_an_abandoned_part_leaves_nothing(tmp_path: Path) -> None:
    writer = PartWriter(part_path(tmp_path, 0))
    writer.write(rows(0, 2000))
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
