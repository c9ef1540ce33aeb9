"""Datasets into a prompt store: once per content, resumable, streaming.

    datasets ─ plan ─▶ units ─ Ray Data read tasks (parse, normalize) ─▶ blocks in order ─▶ parts ─▶ finish

The store stands in a directory named by the digest of the inputs' contents and of the settings that shape
rows. While it is built it is called ``<address>.building``; each read unit becomes one part, complete once
its ``part-NNNNN.json`` is there. An interrupted ingest goes on with the units that have none.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from bolt_ray.core.errors import DataError, EnvironmentProblem, StallError
from bolt_ray.data.background_feed import Feed
from bolt_ray.data.ingest.fingerprints import FileScanner
from bolt_ray.data.ingest.finish import finish_store
from bolt_ray.data.ingest.ingest_source import BAD, FILTERED, ROW, UNREADABLE, read_units, rows_of_kind
from bolt_ray.data.ingest.normalize import RowRules
from bolt_ray.data.ingest.read_plan import ReadPlan, ReadUnit, make_plan
from bolt_ray.data.settings import BadRow, DatasetSettings
from bolt_ray.data.store import PromptStore
from bolt_ray.data.store_files import PART_SCHEMA, PartWriter, part_path, write_json

ReadUnits = Callable[[Sequence[ReadUnit], Sequence[RowRules]], Iterator[pa.Table]]

UNIT_BYTES = 32 << 20
BLOCKS_AHEAD = 4
LOCK_POLL_S = 0.2
SKIP_HINT = "Fix it, or set data.on_bad_row: skip to leave such rows out."


def build_store(
    datasets: Sequence[DatasetSettings],
    *,
    store_dir: str | Path,
    on_bad_row: BadRow,
    max_prompt_chars: int,
    stall_timeout_s: float,
    unit_bytes: int = UNIT_BYTES,
    read: ReadUnits = read_units,
) -> PromptStore:
    """Open the store of these datasets, building it first if it is not there.

    Args:
        datasets: in order; source number i of the store is datasets[i].
        store_dir: directory of all stores; made if missing.
        on_bad_row: "error" raises on the first bad row; "skip" writes them to rejects.jsonl.
        max_prompt_chars: a longer prompt is a bad row.
        stall_timeout_s: longest wait for a block, or for another process that builds the same store.
        unit_bytes: input bytes one read task takes; part of the address, as it decides where parts begin.
        read: reads and normalizes units, see `read_units`, which does it with Ray Data.

    Raises:
        DataError: a dataset, file or row that cannot be used; the message names the place.
        EnvironmentProblem: ``store_dir`` cannot be written.
        StallError: no progress within ``stall_timeout_s``.
    """
    home = Path(store_dir).expanduser().absolute()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        raise EnvironmentProblem(
            f"cannot write the prompt store in {home}: {error.strerror}; set data.store_dir to a writable directory"
        ) from error
    plan = make_plan(
        datasets,
        scanner=FileScanner(cache_dir=home, cut_bytes=unit_bytes),
        unit_bytes=unit_bytes,
        on_bad_row=on_bad_row,
        max_prompt_chars=max_prompt_chars,
    )
    final = home / plan.address
    with _lock(home / f"{plan.address}.lock", timeout_s=stall_timeout_s):
        if not final.exists():
            _build(plan, final=final, on_bad_row=on_bad_row, stall_timeout_s=stall_timeout_s, read=read)
    return PromptStore.open(final)


@contextmanager
def _lock(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Only one process builds a store; the others wait and then find it there."""
    deadline = time.monotonic() + timeout_s
    with path.open("w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise StallError(
                        f"another process has been building this prompt store for {timeout_s:g} s ({path})"
                    ) from None
                time.sleep(LOCK_POLL_S)
                continue
            break
        yield


def _build(plan: ReadPlan, *, final: Path, on_bad_row: str, stall_timeout_s: float, read: ReadUnits) -> None:
    building = final.with_name(f"{final.name}.building")
    building.mkdir(exist_ok=True)
    missing = [unit for unit in plan.units if not sidecar_path(building, unit.number).exists()]
    if missing:
        _read_missing(
            plan, missing, building=building, on_bad_row=on_bad_row, stall_timeout_s=stall_timeout_s, read=read
        )
    finish_store(plan, building, skip_bad_rows=on_bad_row == "skip")
    os.replace(building, final)  # noqa: PTH105 - a directory onto a name that is free


def _read_missing(
    plan: ReadPlan,
    missing: list[ReadUnit],
    *,
    building: Path,
    on_bad_row: str,
    stall_timeout_s: float,
    read: ReadUnits,
) -> None:
    free = shutil.disk_usage(building).free
    needed = sum(piece.size for unit in missing for piece in unit.pieces)
    if free < needed:
        raise EnvironmentProblem(
            f"reading the datasets needs about {needed >> 20:,} MiB in {building.parent}, which has "
            f"{free >> 20:,} MiB free; set data.store_dir to a larger disk"
        )
    feed: Feed[pa.Table] = Feed(lambda: read(missing, plan.rules), what="the datasets", max_waiting=BLOCKS_AHEAD)
    by_number = {unit.number: unit for unit in missing}
    collector: _PartCollector | None = None
    waiting = list(missing)
    try:
        while (table := feed.get(stall_timeout_s)) is not None:
            number = table["unit"][0].as_py()
            while collector is None or collector.unit.number != number:
                if collector is not None:
                    collector.finish()
                # A unit without any row sends no block: its part is finished here, empty.
                collector = _PartCollector(waiting.pop(0), building, skip=on_bad_row == "skip")
            assert collector.unit is by_number[number]
            collector.write(table)
        while collector is not None or waiting:
            if collector is not None:
                collector.finish()
            collector = _PartCollector(waiting.pop(0), building, skip=on_bad_row == "skip") if waiting else None
    finally:
        feed.close()
        if collector is not None:
            collector.abandon()


def sidecar_path(directory: Path, number: int) -> Path:
    """The file that marks a part as complete: its rows and counts."""
    return part_path(directory, number).with_suffix(".json")


def rejects_path(directory: Path, number: int) -> Path:
    return part_path(directory, number).with_suffix(".rejects.jsonl")


class _PartCollector:
    """Writes one part: prompts to the Arrow file, bad rows to its rejects, counts to its sidecar."""

    def __init__(self, unit: ReadUnit, directory: Path, *, skip: bool) -> None:
        self.unit = unit
        self._directory = directory
        self._skip = skip
        self._writer = PartWriter(part_path(directory, unit.number))
        self._rejects = rejects_path(directory, unit.number).open("w", encoding="utf-8")
        self._records = 0
        self._rejected: Counter[str] = Counter()
        self._filtered: Counter[str] = Counter()

    def write(self, table: pa.Table) -> None:
        """Add a block of this unit.

        Raises:
            DataError: a file cannot be read, or a row is bad and bad rows are not skipped.
        """
        for row in rows_of_kind(table, (BAD, FILTERED, UNREADABLE)):
            if row.kind == UNREADABLE:
                raise DataError(row.message)
            if row.kind == FILTERED:
                self._filtered[row.reason] += 1
                continue
            place = self.unit.pieces[row.piece].place(row.line)
            if not self._skip:
                raise DataError(f"{place}: {row.message.rstrip('.')}. {SKIP_HINT}")
            self._rejected[row.reason] += 1
            entry = {"place": place, "reason": row.reason, "message": row.message, "row": row.excerpt}
            self._rejects.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._records += table.num_rows
        good = table.filter(pc.equal(table["kind"], ROW)).select(PART_SCHEMA.names)
        if good.num_rows:
            self._writer.write(good)

    def finish(self) -> None:
        self._writer.finish()
        self._rejects.close()
        write_json(
            sidecar_path(self._directory, self.unit.number),
            {
                "source": self.unit.source,
                "rows": self._writer.num_rows,
                "records": self._records,
                "rejected": dict(self._rejected),
                "filtered": dict(self._filtered),
                "pieces": [[piece.path, piece.format] for piece in self.unit.pieces],
            },
        )

    def abandon(self) -> None:
        self._writer.abandon()
        self._rejects.close()
