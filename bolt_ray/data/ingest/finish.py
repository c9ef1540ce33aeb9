"""The last step of an ingest: duplicates out, dense row numbers, the index and the manifest."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bolt_ray.core.baseline.prompt_features import NUM_FEATURES
from bolt_ray.core.errors import DataError
from bolt_ray.core.files import fsync_path
from bolt_ray.data.ingest.columns import SOURCE_COLUMN
from bolt_ray.data.ingest.read_plan import STORE_FORMAT, Piece, ReadPlan
from bolt_ray.data.store_files import PartsReader, part_path, write_json

COMPARE_ROWS = 8192

MAX_LABELS = 100
"""More data sources than that in one dataset are no names for metrics."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Duplicate:
    """A row whose id, or without ids whose prompt, an earlier row has.

    Attributes:
        row, first: physical row numbers of the later and the earliest row.
        by_id: True if the key is an id a dataset gave.
        same_answer: True if the answers are equal, too.
    """

    row: int
    first: int
    by_id: bool
    same_answer: bool


def finish_store(plan: ReadPlan, directory: Path, *, skip_bad_rows: bool) -> None:
    """Write the arrays of the index, ``keys.arrow``, ``rejects.jsonl`` and, last, ``manifest.json``.

    Raises:
        DataError: an id occurs twice and bad rows are not skipped, or a dataset has no prompt left.
    """
    parts = [
        json.loads(part_path(directory, unit.number).with_suffix(".json").read_text(encoding="utf-8"))
        for unit in plan.units
    ]
    reader = PartsReader(directory, [part["rows"] for part in parts])
    rejected = [Counter[str]() for _ in plan.sources]
    filtered = [Counter[str]() for _ in plan.sources]
    for part in parts:
        rejected[part["source"]].update(part["rejected"])
        filtered[part["source"]].update(part["filtered"])

    hashes = _column(reader, "key_hash", np.uint64)
    dropped = np.zeros(reader.num_rows, dtype=np.bool_)
    part_sources = np.array([part["source"] for part in parts], dtype=np.int32)
    places = _Places(reader, parts)
    with (directory / "rejects.jsonl").open("w", encoding="utf-8") as rejects:
        for unit in plan.units:
            with part_path(directory, unit.number).with_suffix(".rejects.jsonl").open(encoding="utf-8") as stream:
                rejects.writelines(stream)
        for duplicate in _duplicates(reader, hashes):
            source = int(part_sources[reader.part_of(np.array([duplicate.row]))[0]])
            if duplicate.by_id:
                key, here = places.of(duplicate.row)
                message = f"prompt_id '{key}' is already used by {places.of(duplicate.first)[1]}"
                if not skip_bad_rows:
                    raise DataError(
                        f"{here}: {message}. Make the ids unique, set columns: {{prompt_id: null}} to key "
                        "prompts by their text, or set data.on_bad_row: skip"
                    )
                entry = {"place": here, "reason": "duplicate_id", "message": message, "row": ""}
                rejects.write(json.dumps(entry, ensure_ascii=False) + "\n")
                rejected[source]["duplicate_id"] += 1
                dropped[duplicate.row] = True
            elif plan.drop_duplicates[source]:
                reason = "duplicate_prompt" if duplicate.same_answer else "duplicate_prompt_with_another_answer"
                filtered[source][reason] += 1
                dropped[duplicate.row] = True

    index = np.flatnonzero(~dropped).astype(np.int64)
    row_sources = part_sources[reader.part_of(index)]
    names, labels, notes = _labels(reader, part_sources, plan.sources)
    sources = [
        {
            "name": name,
            "rows": int(np.count_nonzero(row_sources == number)),
            "read": sum(part["records"] for part in parts if part["source"] == number),
            "rejected": dict(rejected[number]),
            "filtered": dict(filtered[number]),
            "note": notes.get(number, ""),
        }
        for number, name in enumerate(plan.sources)
    ]
    _check_not_empty(sources, plan)
    np.save(directory / "index.npy", index)
    np.save(directory / "key_hash.npy", hashes[index])
    np.save(directory / "label.npy", labels[index])
    np.save(directory / "features.npy", _features(reader)[index])
    _write_keys(reader, dropped, directory / "keys.arrow")
    for name in ("index.npy", "key_hash.npy", "label.npy", "features.npy", "keys.arrow", "rejects.jsonl"):
        fsync_path(directory / name)
    manifest = {
        "format": STORE_FORMAT,
        "address": plan.address,
        "rows": int(index.size),
        "sources": sources,
        "labels": names,
        "parts": parts,
    }
    write_json(directory / "manifest.json", manifest)


def _column(reader: PartsReader, name: str, dtype: Any) -> NDArray[Any]:
    """One number column of all rows."""
    chunks = [table[name].to_numpy() for table in reader.columns([name])]
    return np.concatenate(chunks) if chunks else np.empty(0, dtype)


def _features(reader: PartsReader) -> NDArray[np.uint16]:
    """uint16 [n, NUM_FEATURES]: those of all rows' texts."""
    data = b"".join(b"".join(table["features"].to_pylist()) for table in reader.columns(["features"]))
    return np.frombuffer(data, dtype="<u2").astype(np.uint16).reshape(-1, NUM_FEATURES)


def _labels(
    reader: PartsReader, part_sources: NDArray[np.int32], sources: Sequence[str]
) -> tuple[list[str], NDArray[np.int32], dict[int, str]]:
    """Names for metrics; int32 [n], the number of every row's among them; by source what is to be told of them.

    The first names are those of the datasets, for rows that name none.
    """
    numbers = {name: number for number, name in enumerate(sources)}
    found: list[tuple[int, list[str]]] = []
    named: dict[int, set[str]] = {}
    tables = reader.columns(["label"])
    for number in np.flatnonzero(np.diff(reader.starts)).tolist():
        labels = next(tables)["label"].to_pylist()
        source = int(part_sources[number])
        found.append((source, labels))
        named.setdefault(source, set()).update(labels)
    notes = {
        source: f"{len(names):,} different {SOURCE_COLUMN}: metrics go by the dataset"
        for source, names in named.items()
        if len(names) > MAX_LABELS
    }
    codes = [np.empty(0, dtype=np.int32)]
    for source, labels in found:
        if source in notes:
            codes.append(np.full(len(labels), source, dtype=np.int32))
            continue
        known = {name: numbers.setdefault(name, len(numbers)) for name in sorted(named[source]) if name}
        codes.append(np.array([known.get(name, source) for name in labels], dtype=np.int32))
    return list(numbers), np.concatenate(codes), notes


def _duplicates(reader: PartsReader, hashes: NDArray[np.uint64]) -> Iterator[_Duplicate]:
    """Rows whose id, or without ids whose prompt, stands in an earlier row, in row order.

    Candidates are equal 64-bit hashes; ids or prompts are then compared, so a collision drops nothing.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    repeats = np.empty(order.size, dtype=np.bool_)
    repeats[:1] = False
    repeats[1:] = ordered[1:] == ordered[:-1]
    group = np.cumsum(~repeats) - 1
    firsts = order[np.flatnonzero(~repeats)]
    rows, first = order[repeats], firsts[group[repeats]]
    in_order = np.argsort(rows, kind="stable")
    rows, first = rows[in_order], first[in_order]
    for start in range(0, rows.size, COMPARE_ROWS):
        some = slice(start, start + COMPARE_ROWS)
        here = reader.take(rows[some], ["key", "has_id", "prompt", "answer"])
        there = reader.take(first[some], ["key", "has_id", "prompt", "answer"])
        equal = {name: pc.equal(here[name], there[name]).to_numpy() for name in ("key", "prompt", "answer")}
        by_id = pc.or_(here["has_id"], there["has_id"]).to_numpy()
        same = np.where(by_id, equal["key"], equal["prompt"])
        for place in np.flatnonzero(same).tolist():
            yield _Duplicate(
                row=int(rows[start + place]),
                first=int(first[start + place]),
                by_id=bool(by_id[place]),
                same_answer=bool(equal["answer"][place]),
            )


class _Places:
    """Where physical rows came from."""

    def __init__(self, reader: PartsReader, parts: Sequence[dict[str, Any]]) -> None:
        self._reader = reader
        self._parts = parts

    def of(self, row: int) -> tuple[str, str]:
        """(key, place) of a row."""
        rows = np.array([row], dtype=np.int64)
        entry = self._reader.take(rows, ["key", "piece", "line"]).to_pylist()[0]
        path, file_format = self._parts[int(self._reader.part_of(rows)[0])]["pieces"][entry["piece"]]
        return entry["key"], Piece(path=path, format=file_format).place(entry["line"])


def _check_not_empty(sources: Sequence[dict[str, Any]], plan: ReadPlan) -> None:
    for number, source in enumerate(sources):
        if source["rows"]:
            continue
        paths = sorted({piece.path for unit in plan.units if unit.source == number for piece in unit.pieces})
        where = ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
        left_out = [f"{count:,} {reason}" for reason, count in {**source["rejected"], **source["filtered"]}.items()]
        reasons = f" ({', '.join(left_out)})" if left_out else ""
        raise DataError(
            f"dataset '{source['name']}' is empty: {source['read']:,} rows read{reasons}, no prompt left. "
            f"Read from: {where or 'no rows at all'}"
        )


def _write_keys(reader: PartsReader, dropped: NDArray[np.bool_], path: Path) -> None:
    start = 0
    schema = pa.schema([("key", pa.large_string())])
    with pa.ipc.new_file(str(path), schema) as writer:
        for table in reader.columns(["key"]):
            keep = ~dropped[start : start + table.num_rows]
            start += table.num_rows
            writer.write_table(table.filter(pa.array(keep)))
