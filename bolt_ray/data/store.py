"""The prompt store: prompts on disk under dense row numbers, read at random and memory-mapped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bolt_ray.core.errors import DataError
from bolt_ray.core.records import Prompt
from bolt_ray.data.ingest.read_plan import STORE_FORMAT, Piece
from bolt_ray.data.store_files import PartsReader

PROMPT_COLUMNS = ("key", "prompt", "answer", "metadata")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReport:
    """What became of a dataset's rows.

    Attributes:
        name: of the dataset, as in ``Prompt.dataset``.
        rows: prompts in the store.
        read: rows read, good and bad.
        rejected: bad rows by reason; they stand in rejects.jsonl.
        filtered: rows left out by filters, by reason.
        note: what else is to be told, or "".
    """

    name: str
    rows: int
    read: int
    rejected: Mapping[str, int]
    filtered: Mapping[str, int]
    note: str = ""

    def __str__(self) -> str:
        left_out = [f"{count:,} rejected ({reason})" for reason, count in self.rejected.items()]
        left_out += [f"{count:,} left out ({reason})" for reason, count in self.filtered.items()]
        told = [*left_out, self.note] if self.note else left_out
        return f"{self.name}: {self.rows:,} prompts of {self.read:,} rows" + "".join(f", {part}" for part in told)


class PromptStore:
    """Prompts by row number 0 … num_rows-1. Open it with :meth:`open`; it never changes."""

    def __init__(self, directory: Path, manifest: Mapping[str, Any]) -> None:
        self.directory = directory
        self.address: str = manifest["address"]
        self.num_rows: int = manifest["rows"]
        self.sources = tuple(SourceReport(**source) for source in manifest["sources"])
        self._parts: Sequence[Mapping[str, Any]] = manifest["parts"]
        self._reader = PartsReader(directory, [part["rows"] for part in self._parts])
        self._index: NDArray[np.int64] = np.load(directory / "index.npy", mmap_mode="r")
        self._part_sources = np.array([part["source"] for part in self._parts], dtype=np.int32)
        self._labels: list[str] = manifest["labels"]
        self._label_ids: NDArray[np.int32] = np.load(directory / "label.npy", mmap_mode="r")

    @classmethod
    def open(cls, directory: str | Path) -> PromptStore:
        """Open a finished store; costs the same whatever its size.

        Raises:
            DataError: there is none, or one of another format.
        """
        path = Path(directory).absolute()
        try:
            manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"no prompt store at {path} ({error}). On a cluster data.store_dir must be a directory that "
                "all nodes share"
            ) from error
        if manifest.get("format") != STORE_FORMAT:
            raise DataError(
                f"the prompt store {path} has format {manifest.get('format')}, not {STORE_FORMAT}: delete it"
            )
        return cls(path, manifest)

    def keys(self) -> pa.LargeStringArray:
        """The key of every row, in row order, as one Arrow array."""
        with pa.memory_map(str(self.directory / "keys.arrow")) as stream:
            return pa.ipc.open_file(stream).read_all()["key"].combine_chunks()

    def key_hashes(self) -> NDArray[np.uint64]:
        """uint64 [num_rows], memory-mapped: a hash of every row's id, of its prompt where it has none."""
        hashes: NDArray[np.uint64] = np.load(self.directory / "key_hash.npy", mmap_mode="r")
        return hashes

    def features(self, rows: NDArray[np.int64]) -> NDArray[np.uint16]:
        """uint16 [n, NUM_FEATURES]: what the texts of ``rows``, int64 [n], look like."""
        features: NDArray[np.uint16] = np.load(self.directory / "features.npy", mmap_mode="r")
        return np.asarray(features[rows])

    def source_ids(self) -> NDArray[np.int32]:
        """int32 [num_rows]: the number of every row's dataset, an index into ``sources``."""
        ids: NDArray[np.int32] = self._part_sources[self._reader.part_of(self._index)]
        return ids

    def source_names(self, rows: NDArray[np.int64]) -> list[str]:
        """What each of ``rows``, int64 [n], is counted under: its data_source, else the name of its dataset."""
        return [self._labels[number] for number in np.asarray(self._label_ids[rows]).tolist()]

    def names_in(self, source: int) -> list[str]:
        """The different :meth:`source_names` of a dataset's rows."""
        return [self._labels[number] for number in np.unique(self._label_ids[self.source_ids() == source]).tolist()]

    def dataset_rows(self) -> NDArray[np.int64]:
        """int64 [num_rows]: every row's place among all rows of its own dataset, from 0, bad rows counted.

        ``<dataset>_<this number>`` is how warm-start files of other systems name a prompt.
        """
        starts = np.zeros(len(self._parts), dtype=np.int64)
        read = [0] * len(self.sources)
        for number, part in enumerate(self._parts):
            starts[number] = read[part["source"]]
            read[part["source"]] += part["records"]
        records = [table["record"].to_numpy() for table in self._reader.columns(["record"])]
        rows: NDArray[np.int64] = np.concatenate(records)[self._index] + starts[self._reader.part_of(self._index)]
        return rows

    def table(self, rows: NDArray[np.int64]) -> pa.Table:
        """``PROMPT_COLUMNS`` of some rows, in the order asked for; costs what is read."""
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and not (int(rows.min()) >= 0 and int(rows.max()) < self.num_rows):
            raise ValueError(f"rows must lie in 0 … {self.num_rows - 1}")
        return self._reader.take(np.asarray(self._index[rows], dtype=np.int64), PROMPT_COLUMNS)

    def read(self, rows: NDArray[np.int64]) -> list[Prompt]:
        """Prompts by row number, in the order asked for; a row may be asked for twice."""
        return self.to_prompts(np.asarray(rows, dtype=np.int64), self.table(rows))

    def to_prompts(self, rows: NDArray[np.int64], table: pa.Table) -> list[Prompt]:
        """The records of rows already fetched with :meth:`table`."""
        names = self.source_names(rows)
        sources = self._part_sources[self._reader.part_of(np.asarray(self._index[rows], dtype=np.int64))].tolist()
        columns = (table[name].to_pylist() for name in PROMPT_COLUMNS)
        return [
            Prompt(
                row=row,
                key=key,
                prompt=json.loads(prompt),
                answer=answer,
                source=name,
                dataset=self.sources[source].name,
                metadata=json.loads(metadata),
            )
            for row, name, source, key, prompt, answer, metadata in zip(
                rows.tolist(), names, sources, *columns, strict=True
            )
        ]

    def place(self, row: int) -> str:
        """Where a row was read from: file and line."""
        rows = np.asarray(self._index[[row]], dtype=np.int64)
        entry = self._reader.take(rows, ["piece", "line"]).to_pylist()[0]
        path, file_format = self._parts[int(self._reader.part_of(rows)[0])]["pieces"][entry["piece"]]
        return Piece(path=path, format=file_format).place(entry["line"])

    def split_heldout(self, *, fraction: float = 0.0, size: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows to train on and rows kept out, both int64 and ascending.

        By the hash of the key alone: a prompt falls on the same side whatever the order of the rows, and with
        ``fraction`` also whatever other prompts there are. Rows of one key are never separated.

        Args:
            fraction: share kept out, in [0, 1).
            size: number kept out, more only by rows with equal keys; not together with ``fraction``.

        Raises:
            DataError: nothing would be left to train on.
        """
        if fraction and size:
            raise ValueError("give fraction or size, not both")
        hashes = self.key_hashes()
        if size >= self.num_rows or not 0 <= fraction < 1:
            raise DataError(
                f"cannot keep {size or fraction} of {self.num_rows:,} prompts out: none would be left to "
                "train on; lower data.heldout_size or data.heldout_fraction"
            )
        if size:
            heldout = hashes <= np.partition(hashes, size - 1)[size - 1]
        else:
            heldout = hashes < np.uint64(int(fraction * 2**64))
        return np.flatnonzero(~heldout).astype(np.int64), np.flatnonzero(heldout).astype(np.int64)

    def report(self) -> str:
        """One line per dataset: what was kept, rejected and left out."""
        return "\n".join(str(source) for source in self.sources)


@lru_cache(maxsize=4)
def shared_store(directory: str) -> PromptStore:
    """The store opened once per process, for read tasks."""
    return PromptStore.open(directory)
