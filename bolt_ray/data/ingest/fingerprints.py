"""Fingerprints of input files: what a file holds, and where a large JSONL file can be cut."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import xxhash

from bolt_ray.core.errors import DataError
from bolt_ray.data.ingest.locate import DataFile

CHUNK_BYTES = 4 << 20
CACHE_NAME = "fingerprints.json"

Cut = tuple[int, int]
"""(byte offset of a line's start, lines before it)."""


class FileScanner:
    """Hashes local files and remembers the hash by (path, size, time of change).

    Files that are not local are not read twice: their fingerprint is path, size and time of change.

    Args:
        cache_dir: directory of the remembered hashes; any state of the file in it is acceptable.
        cut_bytes: JSONL files are cut into pieces of about this size.
    """

    def __init__(self, *, cache_dir: Path, cut_bytes: int) -> None:
        self._cache_path = cache_dir / CACHE_NAME
        self._cut_bytes = cut_bytes
        self._entries: dict[str, dict[str, object]] = {}
        if self._cache_path.exists():
            try:
                stored = json.loads(self._cache_path.read_text(encoding="utf-8"))
            except ValueError:
                stored = {}  # torn by a crash: hash again
            if isinstance(stored, dict):
                self._entries = {key: entry for key, entry in stored.items() if isinstance(entry, dict)}

    def scan(self, file: DataFile) -> tuple[str, Sequence[Cut]]:
        """The fingerprint, and the places to cut at: always (0, 0) first, more only for plain local JSONL.

        Raises:
            DataError: the file cannot be read.
        """
        if not file.local:
            return f"{file.path}:{file.size}:{file.mtime_ns}", [(0, 0)]
        stamp = [file.size, file.mtime_ns, self._cut_bytes, file.format]
        entry = self._entries.get(file.path)
        if entry is None or entry.get("stamp") != stamp:
            digest, cuts = self._read(file)
            entry = {"stamp": stamp, "digest": digest, "cuts": cuts}
            self._entries[file.path] = entry
        cuts_list = entry["cuts"]
        assert isinstance(cuts_list, list)
        return str(entry["digest"]), [(int(offset), int(line)) for offset, line in cuts_list]

    def save(self) -> None:
        aside = self._cache_path.with_name(f"{CACHE_NAME}.{os.getpid()}")
        aside.write_text(json.dumps(self._entries), encoding="utf-8")
        aside.replace(self._cache_path)

    def _read(self, file: DataFile) -> tuple[str, list[Cut]]:
        cut_lines = file.format == "jsonl" and not file.compressed
        hasher = xxhash.xxh3_128()
        cuts: list[Cut] = [(0, 0)]
        offset = lines = 0
        try:
            with Path(file.path).open("rb") as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    hasher.update(chunk)
                    if cut_lines:
                        self._cut(chunk, cuts, offset=offset, lines=lines)
                        lines += chunk.count(b"\n")
                    offset += len(chunk)
        except OSError as error:
            raise DataError(f"cannot read {file.path}: {error.strerror or error}") from error
        if len(cuts) > 1 and cuts[-1][0] >= offset:
            cuts.pop()
        return hasher.hexdigest(), cuts

    def _cut(self, chunk: bytes, cuts: list[Cut], *, offset: int, lines: int) -> None:
        """Append the cuts that fall into a chunk: the first line start at least ``cut_bytes`` after the last."""
        while True:
            due = cuts[-1][0] + self._cut_bytes - 1 - offset
            end = chunk.find(b"\n", max(0, due)) if due < len(chunk) else -1
            if end < 0:
                return
            cuts.append((offset + end + 1, lines + chunk.count(b"\n", 0, end + 1)))
