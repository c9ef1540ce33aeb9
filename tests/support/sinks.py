"""Sinks that keep, fail or hang, for the process of a sink to run; and readers of what the real ones leave."""

from __future__ import annotations

import json
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bolt_ray.training.telemetry.sinks.sink import Say, SinkStart


class KeepingSink:
    """Writes what it is told to ``kept.jsonl``, one line each."""

    def __init__(self, start: SinkStart, say: Say) -> None:
        self._file = start.run / "kept.jsonl"
        self._note({"start": start.options})
        say("it keeps")

    def record(self, record: Mapping[str, float]) -> None:
        self._note(record)

    def samples(self, kind: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self._note({"samples": [kind, step, len(rows)]})

    def close(self) -> None:
        self._note({"closed": True})

    def _note(self, line: Mapping[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


class FailingSink(KeepingSink):
    """Fails at the second record, with a secret in the message."""

    def record(self, record: Mapping[str, float]) -> None:
        if record["step"] == 2:
            raise ConnectionError("http://me:hunter2@server is down")


class HangingSink(KeepingSink):
    """Takes the first record and never comes back."""

    def record(self, record: Mapping[str, float]) -> None:
        super().record(record)
        threading.Event().wait()


class HangingServiceSink(HangingSink):
    """Hangs, as does a process that it started, whose id it keeps."""

    def __init__(self, start: SinkStart, say: Say) -> None:
        super().__init__(start, say)
        self._note({"pid": subprocess.Popen(["sleep", "600"]).pid})


class HangingEndSink(KeepingSink):
    """Takes everything, and does not end; neither does its interpreter."""

    def close(self) -> None:
        threading.Thread(target=threading.Event().wait).start()


def start_of(sink: type, directory: Path) -> SinkStart:
    kind = f"{sink.__module__}:{sink.__name__}"
    return SinkStart(kind=kind, directory=str(directory), config={}, first_step=0, samples_every=2, options={"a": 1})


def wait_for(condition: Callable[[], bool], *, deadline_s: float = 60.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kept(run: Path) -> list[dict[str, Any]]:
    file = run / "kept.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def read_wandb(file: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file, as wandb's own protocol has them: a LevelDB log after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, record = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, part = struct.unpack("<IHB", data[at : at + 7])
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if part in (1, 4):  # whole, or the last part of one
            yield Record.FromString(record)
            record = b""


def wandb_history(file: Path) -> list[dict[str, Any]]:
    """What was logged, row by row."""
    rows = [record.history for record in read_wandb(file) if record.WhichOneof("record_type") == "history"]
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item} for row in rows]
