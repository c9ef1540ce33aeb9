"""Raw rows of every input format, with the line they stand on. A broken row is a row too: with its reason."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from bolt_ray.core.errors import DataError
from bolt_ray.data.ingest.hub import load_hub
from bolt_ray.data.ingest.locate import open_filesystem
from bolt_ray.data.ingest.read_plan import Piece

READ_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20
BATCH_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class RawRow:
    """A row as the file has it, or why there is none.

    Attributes:
        line: line, item or row number in the file, from 1.
        row: column name to value; None for a broken row.
        reason, message: for a broken row.
    """

    line: int
    row: dict[str, Any] | None = None
    reason: str = ""
    message: str = ""


def read_piece(piece: Piece) -> Iterator[RawRow]:
    """The rows of a piece in file order, streaming (a ``.json`` document is held whole).

    Raises:
        DataError: the file as a whole cannot be read.
    """
    try:
        yield from _READERS[piece.format](piece)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read {piece.path} as {piece.format}: {error}") from error


def _open(piece: Piece) -> BinaryIO:
    """A byte stream over the whole file, decompressed."""
    filesystem, path = open_filesystem(piece.path)
    compression = "detect" if piece.options.get("compressed") else None
    stream: BinaryIO = filesystem.open_input_stream(path, compression=compression)
    return stream


def _jsonl(piece: Piece) -> Iterator[RawRow]:
    for number, line in _numbered_lines(piece):
        if line is None:
            yield RawRow(
                line=number,
                reason="malformed_line",
                message=f"the line is longer than {MAX_LINE_BYTES >> 20} MiB",
            )
        elif line.strip():
            yield _json_line(number, line)


def _json_line(number: int, line: bytes) -> RawRow:
    try:
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        return RawRow(line=number, reason="invalid_utf8", message=f"byte {error.start + 1} of the line is not UTF-8")
    except json.JSONDecodeError as error:
        return RawRow(
            line=number,
            reason="malformed_line",
            message=f"not valid JSON: {error.msg} at column {error.colno}",
        )
    except ValueError:
        return RawRow(line=number, reason="malformed_line", message=_too_many_digits())
    except RecursionError:
        return RawRow(line=number, reason="malformed_line", message="the JSON is nested too deeply")
    return _json_item(number, value)


def _too_many_digits() -> str:
    """The only ``ValueError`` of the JSON parser that is no ``JSONDecodeError``."""
    return f"a whole number in it has more than {sys.get_int_max_str_digits():,} digits; write it as a text"


def _json_item(number: int, value: Any) -> RawRow:
    if isinstance(value, str):
        return RawRow(line=number, row={"prompt": value})
    if isinstance(value, dict):
        return RawRow(line=number, row=value)
    return RawRow(
        line=number,
        reason="wrong_type",
        message=f"expected an object or a text, not {json.dumps(value)[:40]}",
    )


def _numbered_lines(piece: Piece) -> Iterator[tuple[int, bytes | None]]:
    """(line number, line without its end) of a byte range; None for a line beyond MAX_LINE_BYTES."""
    number = piece.first_line
    # The line so far is kept in chunks: joining at each would be quadratic in its length.
    begun: list[bytes] = []
    oversized = False
    with _range(piece) as chunks:
        for chunk in chunks:
            first, *lines = chunk.split(b"\n")
            begun.append(first)
            for line in lines:
                number += 1
                yield number, None if oversized else b"".join(begun)
                begun, oversized = [line], False
            if sum(map(len, begun)) > MAX_LINE_BYTES:
                begun, oversized = [], True
    if oversized or any(begun):
        yield number + 1, None if oversized else b"".join(begun)


class _range:  # noqa: N801 - reads as a function in a with statement
    """The bytes start…stop of a piece's file, in chunks."""

    def __init__(self, piece: Piece) -> None:
        self._stream = _open(piece)
        if piece.start:
            # Only plain local files are cut, and these can seek.
            self._stream.close()
            filesystem, path = open_filesystem(piece.path)
            self._stream = filesystem.open_input_file(path)
            self._stream.seek(piece.start)
        self._left = None if piece.stop is None else piece.stop - piece.start

    def __enter__(self) -> Iterator[bytes]:
        return self._chunks()

    def __exit__(self, *exc_info: object) -> None:
        self._stream.close()

    def _chunks(self) -> Iterator[bytes]:
        while self._left is None or self._left > 0:
            chunk = self._stream.read(READ_BYTES if self._left is None else min(READ_BYTES, self._left))
            if not chunk:
                return
            if self._left is not None:
                self._left -= len(chunk)
            yield chunk


def _json(piece: Piece) -> Iterator[RawRow]:
    """``{"prompts": [...]}``, a list, or (as many files named .json are) one object a line."""
    with _open(piece) as stream:
        data = stream.read()
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{piece.path}, line {data.count(bytes([10]), 0, error.start) + 1}: byte {error.start + 1} of "
            "the file is not UTF-8; save the file as UTF-8"
        ) from error
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and data.lstrip()[:1] == b"{":
            yield from _jsonl(piece)
            return
        raise DataError(
            f"{piece.path}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        ) from error
    except ValueError as error:
        raise DataError(f"{piece.path}: {_too_many_digits()}") from error
    if isinstance(document, dict) and isinstance(document.get("prompts"), list):
        document = document["prompts"]
    if isinstance(document, dict):
        keys = ", ".join(sorted(document)[:10])
        raise DataError(f'{piece.path}: expected {{"prompts": [...]}} or a list of rows; the object has: {keys}')
    if not isinstance(document, list):
        raise DataError(f'{piece.path}: expected {{"prompts": [...]}} or a list of rows')
    for number, value in enumerate(document, start=1):
        yield _json_item(number, value)


def _csv(piece: Piece) -> Iterator[RawRow]:
    delimiter = piece.options.get("delimiter") or ("\t" if ".tsv" in piece.path.lower() else ",")
    csv.field_size_limit(MAX_LINE_BYTES)
    with _open(piece) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                yield RawRow(line=line, reason="malformed_line", message=f"not valid CSV: {error}")
                continue
            if fields is None:
                return
            if header is None:
                header = fields
            elif fields:
                yield _csv_row(line, header, fields)


def _csv_row(line: int, header: list[str], fields: list[str]) -> RawRow:
    if len(fields) != len(header):
        message = f"{len(fields)} fields where the header has {len(header)}"
        return RawRow(line=line, reason="malformed_line", message=message)
    for name, field in zip(header, fields, strict=True):
        # surrogateescape leaves bytes that are not UTF-8 as lone surrogates.
        if not field.isascii() and any("\udc80" <= character <= "\udcff" for character in field):
            return RawRow(line=line, reason="invalid_utf8", message=f"column '{name}' is not UTF-8")
    return RawRow(line=line, row=dict(zip(header, fields, strict=True)))


def _parquet(piece: Piece) -> Iterator[RawRow]:
    filesystem, path = open_filesystem(piece.path)
    with filesystem.open_input_file(path) as stream:
        file = pq.ParquetFile(stream)
        groups = list(range(piece.start, piece.stop if piece.stop is not None else file.metadata.num_row_groups))
        yield from _batches(file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups), piece.first_line)


def _arrow(piece: Piece) -> Iterator[RawRow]:
    """Arrow IPC, in the file format or the stream format (what ``save_to_disk`` of ``datasets`` writes)."""
    filesystem, path = open_filesystem(piece.path)
    with filesystem.open_input_file(path) as stream:
        if stream.read(6) == b"ARROW1":
            reader = pa.ipc.open_file(stream)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            stream.seek(0)
            batches = iter(pa.ipc.open_stream(stream))
        yield from _batches(batches, 0)


def _hub(piece: Piece) -> Iterator[RawRow]:
    loaded = load_hub(dict(piece.options)).with_format("arrow")
    stop = int(loaded.num_rows) if piece.stop is None else piece.stop
    for start in range(piece.start, stop, BATCH_ROWS):
        yield from _batches(loaded[start : min(stop, start + BATCH_ROWS)].to_batches(), start)


def _batches(batches: Any, first_line: int) -> Iterator[RawRow]:
    line = first_line
    for batch in batches:
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError:
            rows = None
        for number in range(batch.num_rows):
            line += 1
            yield RawRow(line=line, row=rows[number]) if rows is not None else _arrow_row(batch, number, line)


def _arrow_row(batch: Any, number: int, line: int) -> RawRow:
    """One row of a batch in which some text is not UTF-8."""
    row = {}
    for name in batch.schema.names:
        try:
            row[name] = batch.column(name)[number].as_py()
        except UnicodeDecodeError:
            return RawRow(line=line, reason="invalid_utf8", message=f"column '{name}' is not UTF-8")
    return RawRow(line=line, row=row)


_READERS: dict[str, Callable[[Piece], Iterator[RawRow]]] = {
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "arrow": _arrow,
    "hub": _hub,
}
