"""The process of a sink: lines of JSON in, what it has to say out.

In: `SinkStart` as an object, then ``{"record": …}`` and ``{"samples": "train", "step": …, "rows": …}``; the end of the
input closes the sink, so that it also ends in order when the driver is killed.
Out: ``{"said": …}``, and ``{"failed": …, "trace": …}`` before a process that could not go on ends.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from typing import Any, TextIO

from bolt_ray.training.telemetry.sinks.sink import Say, Sink, SinkStart

SINKS = {
    "wandb": "bolt_ray.training.telemetry.sinks.wandb_sink:WandbSink",
    "tensorboard": "bolt_ray.training.telemetry.sinks.tensorboard_sink:TensorBoardSink",
    "trackio": "bolt_ray.training.telemetry.sinks.trackio_sink:TrackioSink",
}


NICENESS = 15
"""Where cores are few, training goes first."""


def main(*, grace_s: float) -> None:
    """Run the sink that the standard input describes, to at most ``grace_s`` after the end of who started it."""
    os.nice(NICENESS)
    threading.Thread(target=_end_with, args=(os.getppid(), grace_s), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What the libraries print is theirs: standard output carries answers alone.
    os.dup2(2, 1)
    sys.exit(serve(sys.stdin, answers))


def _end_with(parent: int, grace_s: float) -> None:
    """A sink that hangs does not see that its input ended."""
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(grace_s)
    os._exit(1)


def serve(lines: Iterable[str], answers: TextIO) -> int:
    """Feed a sink with ``lines``; the exit status."""

    def answer(**message: str) -> None:
        print(json.dumps(message), file=answers, flush=True)

    def say(text: str) -> None:
        answer(said=text)

    try:
        incoming = map(json.loads, lines)
        start = SinkStart(**next(incoming))
        sink = _make(start, say)
        _feed(sink, incoming, lambda why: say(f"Warning: {start.kind} takes no samples ({why}); the numbers go on"))
        sink.close()
    except Exception as error:  # noqa: BLE001 - a sink may fail in any way, and training goes on
        answer(failed=_short(error), trace=traceback.format_exc())
        return 1
    return 0


def _make(start: SinkStart, say: Say) -> Sink:
    module, _, name = SINKS.get(start.kind, start.kind).partition(":")
    sink: Sink = getattr(importlib.import_module(module), name)(start, say)
    return sink


def _feed(sink: Sink, messages: Iterable[dict[str, Any]], no_samples: Say) -> None:
    """Samples, which services keep apart from numbers, may fail alone: these go on without them."""
    takes_samples = True
    for message in messages:
        if "record" in message:
            sink.record({key: value for key, value in message["record"].items() if isinstance(value, int | float)})
        elif takes_samples:
            try:
                sink.samples(message["samples"], message["step"], message["rows"])
            except Exception as error:  # noqa: BLE001 - in any way
                takes_samples = False
                no_samples(_short(error))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]
