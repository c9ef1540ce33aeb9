from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bolt_ray.core.errors import DataError
from bolt_ray.data.ingest.fingerprints import FileScanner
from bolt_ray.data.ingest.locate import DataFile
from bolt_ray.data.ingest.read_plan import Piece
from bolt_ray.data.ingest.readers import MAX_LINE_BYTES, READ_BYTES, RawRow, read_piece


def read(path: Path, file_format: str, **more: Any) -> list[RawRow]:
    return list(read_piece(Piece(path=str(path), format=file_format, **more)))


def problems(rows: list[RawRow]) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in rows if row.row is None]


def test_jsonl_rows_and_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"prompt": "one"}\n\n{"prompt": }\n"two"\r\n[1]\n{"prompt": "\xff"}\n'
        + '{"prompt": "ä"}'.encode()
    )
    rows = read(path, "jsonl")
    assert [(row.line, row.row) for row in rows if row.row] == [
        (1, {"prompt": "one"}), (4, {"prompt": "two"}), (7, {"prompt": "ä"}),
    ]  # fmt: skip
    assert problems(rows) == [(3, "malformed_line"), (5, "wrong_type"), (6, "invalid_utf8")]
    assert rows[1].message == "not valid JSON: Expecting value at column 12"
    assert rows[4].message == "byte 13 of the line is not UTF-8"


def test_a_line_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    endless = b"x" * (MAX_LINE_BYTES + READ_BYTES)
    path.write_bytes(endless + b"\n" + b'{"prompt": "p"}\n' + endless)
    rows = read(path, "jsonl")
    assert problems(rows) == [(1, "malformed_line"), (3, "malformed_line")]
    assert rows[1].row == {"prompt": "p"}


def test_cut_jsonl_reads_as_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"prompt": "p" * (number % 50)}) + "\n" for number in range(500)))
    size = path.stat().st_size
    file = DataFile(path=str(path), format="jsonl", compressed=False, size=size, mtime_ns=path.stat().st_mtime_ns)
    scanner = FileScanner(cache_dir=tmp_path, cut_bytes=1000)
    digest, cuts = scanner.scan(file)
    assert len(cuts) > 10
    pieces = []
    for (start, lines), stop in zip(cuts, [offset for offset, _ in cuts[1:]] + [None], strict=True):
        pieces += read(path, "jsonl", start=start, stop=stop, first_line=lines)
    assert pieces == read(path, "jsonl")
    assert [row.line for row in pieces] == list(range(1, 501))
    scanner.save()
    again = FileScanner(cache_dir=tmp_path, cut_bytes=1000)
    path.write_text("changed, but size and time are looked at alone")
    assert again.scan(file) == (digest, cuts)
    (tmp_path / "fingerprints.json").write_text('{"torn')
    assert FileScanner(cache_dir=tmp_path, cut_bytes=1000).scan(file)[0] != digest


def test_json_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"prompts": ["one", {"prompt": "two", "answer": 2}, 3]}')
    rows = read(path, "json")
    assert [row.row for row in rows] == [{"prompt": "one"}, {"prompt": "two", "answer": 2}, None]
    assert problems(rows) == [(3, "wrong_type")]
    path.write_text('[{"prompt": "one"}]')
    assert [row.row for row in read(path, "json")] == [{"prompt": "one"}]
    path.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    assert [row.row for row in read(path, "json")] == [{"prompt": "one"}, {"prompt": "two"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"prompts": [\n"a",,]}', "a.json, line 2, column 5: not valid JSON"),
        (b'{"data": []}', r'expected \{"prompts": \[...\]\} or a list of rows; the object has: data'),
        (b"5", "or a list of rows"),
        (b'["a",\n"\xff"]', "a.json, line 2: byte 8 of the file is not UTF-8"),
    ],
)
def test_json_documents_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(path, "json")


def test_csv_rows_and_broken_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,answer\n"two\nlines",1\nshort\n\na,b,c\nbad \xff,2\n"x"y,3\nlast,4\n')
    rows = read(path, "csv")
    assert [(row.line, row.row) for row in rows if row.row] == [
        (2, {"prompt": "two\nlines", "answer": "1"}),
        (9, {"prompt": "last", "answer": "4"}),
    ]
    assert problems(rows) == [
        (4, "malformed_line"), (6, "malformed_line"), (7, "invalid_utf8"), (8, "malformed_line"),
    ]  # fmt: skip
    assert rows[1].message == "1 fields where the header has 2"
    assert rows[3].message == "column 'prompt' is not UTF-8"


def test_csv_delimiters(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("prompt\tanswer\np,q\t1\n")
    assert [row.row for row in read(path, "csv")] == [{"prompt": "p,q", "answer": "1"}]
    assert problems(read(path, "csv", options={"delimiter": ","})) == [(2, "malformed_line")]
    path.write_text("")
    assert read(path, "csv") == []


def test_parquet_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": [f"p{number}" for number in range(10)]}), path, row_group_size=4)
    rows = read(path, "parquet", start=1, stop=2, first_line=4)
    assert [(row.line, row.row) for row in rows] == [(line, {"prompt": f"p{line - 1}"}) for line in (5, 6, 7, 8)]
    assert len(read(path, "parquet")) == 10
    path.write_bytes(b"not parquet")
    with pytest.raises(DataError, match=r"cannot read .*a.parquet as parquet"):
        read(path, "parquet")


def test_arrow_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    broken = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.array([0, 1, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffc")]
    )
    table = pa.table({"prompt": broken})
    with pa.ipc.new_stream(str(path), table.schema) as writer:
        writer.write_table(table)
    rows = read(path, "arrow")
    assert problems(rows) == [(2, "invalid_utf8")]
    assert [row.row for row in rows if row.row] == [{"prompt": "a"}, {"prompt": "c"}]
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    assert read(path, "arrow") == rows


def test_compressed_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"prompt": "p"}\n'))
    rows = read(path, "jsonl", options={"compressed": True})
    assert [row.row for row in rows] == [{"prompt": "p"}]
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot read"):
        read(path, "jsonl", options={"compressed": True})


def test_a_whole_number_of_too_many_digits_is_a_broken_row(tmp_path: Path) -> None:
    number = "1" * 5000
    lines, document = tmp_path / "a.jsonl", tmp_path / "a.json"
    lines.write_text(f'{{"prompt": "p", "answer": {number}}}\n{{"prompt": "q"}}\n')
    rows = read(lines, "jsonl")
    assert problems(rows) == [(1, "malformed_line")] and rows[1].row == {"prompt": "q"}
    assert rows[0].message == "a whole number in it has more than 4,300 digits; write it as a text"
    document.write_text(f'[{{"prompt": "p", "answer": {number}}}]')
    with pytest.raises(DataError, match=r"a\.json: a whole number in it has more than 4,300 digits"):
        read(document, "json")
