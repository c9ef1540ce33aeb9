"""Scores of prompts on their way into a warm-start file: what is finished is on disk, whatever happens next.

<output>.partial.jsonl   what the scores depend on, then one line per finished prompt, in any order
<output>                 the warm-start file (see ``core.baseline.warm_start``), written aside and renamed at the end
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.advantages import scale_rewards
from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.files import fsync_path, write_file_atomically

FORMAT = "bolt_ray.precompute"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScores:
    """The evidence of one finished prompt.

    Attributes:
        row: its row in the prompt store.
        key: its key.
        scores: raw tracker rewards of the completions that could be scored, in sample order; at least one.
    """

    row: int
    key: str
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSummary:
    """What a warm-start file holds.

    Attributes:
        prompts: its entries.
        scores: scores of all entries together.
        mean_v_hat: mean over prompts of the mean scaled score; NaN if there are none.
    """

    prompts: int
    scores: int
    mean_v_hat: float


def partial_path(output: Path) -> Path:
    return output.with_name(f"{output.name}.partial.jsonl")


class ScoreFile:
    """The scores of one warm-start file while it is being made. One process at a time may hold it open.

    Args:
        output: the warm-start file to be.
        fingerprint: what the scores depend on, plain JSON values by name; scores begun under another one are refused.

    Raises:
        CheckpointError: ``output`` is there already or cannot be written, another process is writing it, or what is
            in the partial file was made under another fingerprint.
    """

    def __init__(self, output: Path, *, fingerprint: Mapping[str, Any]) -> None:
        self._output = output
        self.partial = partial_path(output)
        self._fingerprint = dict(fingerprint)
        check_output(output)
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what could not be written must not be tried again when the file is closed.
            self._file = self.partial.open("ab", buffering=0)
        except OSError as error:
            raise CheckpointError(f"{output}: cannot be written ({error.strerror}); name another --output") from None
        try:
            self._lock()
            self._rows = self._open()
        except BaseException:
            self._file.close()
            raise

    @property
    def done_rows(self) -> NDArray[np.int64]:
        """int64 [n]: rows whose scores are on disk."""
        return np.array(self._rows, dtype=np.int64)

    def __len__(self) -> int:
        """Prompts on disk."""
        return len(self._rows)

    def append(self, entries: Iterable[PromptScores]) -> None:
        """Add finished prompts; they survive a power cut once this returns."""
        entries = list(entries)
        lines = [
            json.dumps({"row": entry.row, "key": entry.key, "scores": list(entry.scores)}, ensure_ascii=False) + "\n"
            for entry in entries
        ]
        if lines:
            self._write("".join(lines))
            self._rows += [entry.row for entry in entries]

    def summary(self, *, reward_range: tuple[float, float]) -> ScoreSummary:
        """What is on disk so far."""
        scores, total = 0, 0.0
        for entry in self._entries():
            scores += len(entry.scores)
            total += float(scale_rewards(entry.scores, *reward_range).mean())
        count = len(self._rows)
        return ScoreSummary(prompts=count, scores=scores, mean_v_hat=total / count if count else float("nan"))

    def finish(self, metadata: Mapping[str, Any]) -> None:
        """Write the warm-start file, entries in row order, and delete the partial one."""
        write_file_atomically(self._output, lambda file: self._write_final(file, metadata))
        self.partial.unlink()
        self.close()

    def close(self) -> None:
        """Let go of the partial file. What is in it stays; one without any prompt is deleted."""
        if not self._file.closed and not self._rows:
            self.partial.unlink()
        self._file.close()

    def _write_final(self, file: BinaryIO, metadata: Mapping[str, Any]) -> None:
        file.write(f'{{"metadata": {json.dumps(metadata, ensure_ascii=False)},\n"baselines": {{'.encode())
        separator = "\n"
        for entry in self._entries():
            item = f"{json.dumps(entry.key, ensure_ascii=False)}: {json.dumps(entry.scores)}"
            file.write((separator + item).encode())
            separator = ",\n"
        file.write(b"\n}}\n")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(
                f"{self.partial}: another process is writing it; wait for it, or name another --output"
            ) from None

    def _open(self) -> list[int]:
        """The rows on disk; a last line torn by a crash is cut off."""
        end, rows = 0, []
        with self.partial.open("rb") as lines:
            for number, line in enumerate(lines):
                if not line.endswith(b"\n"):
                    break
                if number == 0:
                    self._check_header(line)
                else:
                    rows.append(self._parse(line, number + 1).row)
                end += len(line)
        self._file.truncate(end)
        if end == 0:
            header = {"format": FORMAT, "version": FORMAT_VERSION, "fingerprint": self._fingerprint}
            self._write(json.dumps(header, ensure_ascii=False) + "\n")
            fsync_path(self.partial.parent)
        return rows

    def _check_header(self, line: bytes) -> None:
        try:
            header = json.loads(line)
        except ValueError:
            header = None
        if not isinstance(header, dict) or (header.get("format"), header.get("version")) != (FORMAT, FORMAT_VERSION):
            raise CheckpointError(
                f"{self.partial}: not a partial result of this version of bolt-ray; move it away, or name another "
                f"--output"
            )
        # Through JSON, as the one on disk went: a tuple becomes a list.
        mine = json.loads(json.dumps(self._fingerprint))
        before = header["fingerprint"]
        changed = [name for name in sorted(mine.keys() | before.keys()) if mine.get(name) != before.get(name)]
        if changed:
            differences = ", ".join(f"{name} (then {before.get(name)}, now {mine.get(name)})" for name in changed)
            raise CheckpointError(
                f"{self.partial} was begun with other settings: {differences}. Run with the settings it was begun with "
                f"to go on, delete it to start over, or name another --output"
            )

    def _entries(self) -> Iterator[PromptScores]:
        """What is on disk, in row order; held in memory is only where each line begins."""
        offsets: list[int] = []
        with self.partial.open("rb") as lines:
            offset = len(lines.readline())
            for line in lines:
                offsets.append(offset)
                offset += len(line)
            for index in np.argsort(self.done_rows, kind="stable").tolist():
                lines.seek(offsets[index])
                yield self._parse(lines.readline(), index + 2)

    def _parse(self, line: bytes, number: int) -> PromptScores:
        try:
            entry = json.loads(line)
            return PromptScores(row=int(entry["row"]), key=str(entry["key"]), scores=tuple(entry["scores"]))
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(
                f"{self.partial}:{number}: not a line of this file, it was altered; delete the line to have its prompt "
                f"done again"
            ) from None

    def _write(self, text: str) -> None:
        """All of ``text`` or, if it cannot be written, none of it."""
        end, left = os.fstat(self._file.fileno()).st_size, memoryview(text.encode())
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(end)
            raise CheckpointError(f"{self.partial}: cannot be written ({error.strerror})") from error


def check_output(output: Path) -> None:
    """Refuse to replace a file.

    Raises:
        CheckpointError: ``output`` is there already.
    """
    if output.exists():
        raise CheckpointError(f"{output}: is there already; delete it, or name another --output")
