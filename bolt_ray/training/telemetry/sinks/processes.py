"""The driver's side of the sinks: a process for each, fed by a thread, so that neither can hold the driver up.

A library that hangs, in a call, at its end or as the interpreter exits, ends with its process.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from queue import SimpleQueue
from typing import IO, Any

from bolt_ray.core.secrets import masked_text
from bolt_ray.training.telemetry.observer import Observer
from bolt_ray.training.telemetry.sinks.sink import SinkStart

CLOSE_S = 20.0
"""How long all sinks together may take to end."""
PENDING_RECORDS, PENDING_SAMPLES = 1_000, 16
"""Records, and tables of samples, that a sink may be behind before further ones are left out."""

_START = (
    "import json, sys; sys.path[:], grace_s = json.loads(sys.argv[1]);"
    "from bolt_ray.training.telemetry.sinks.host import main; main(grace_s=grace_s)"
)

log = logging.getLogger(__name__)


class Sinks(Observer):
    """Hands records and samples to every sink, and says what they say, each of them on the driver's thread.

    Args:
        starts: what each is made from.
        say: says a line to the user.
        close_s: how long all of them together may take to end.
    """

    def __init__(self, starts: Sequence[SinkStart], *, say: Callable[[str], None], close_s: float = CLOSE_S) -> None:
        self._say = say
        self._close_s = close_s
        self._processes = [SinkProcess(start, close_s=close_s) for start in starts]

    def recorded(self, record: Mapping[str, Any]) -> None:
        for process in self._processes:
            process.send({"record": record})
        self._speak()

    def sampled(self, name: str, samples: Sequence[Mapping[str, Any]]) -> None:
        kind, _, number = name.partition("-")
        step, evaluation = int(number), kind == "eval"
        message = {"samples": "eval" if evaluation else "train", "step": step, "rows": list(samples)}
        for process in self._processes:
            if samples and (evaluation or process.is_due(step)):
                process.send(message)
        self._speak()

    def close(self) -> None:
        for process in self._processes:
            process.finish()
        deadline = time.monotonic() + self._close_s
        for process in self._processes:
            process.wait(deadline)
        self._speak()

    def _speak(self) -> None:
        for process in self._processes:
            while process.said:
                self._say(process.said.popleft())


class SinkProcess:
    """One sink: a queue, the thread that empties it into the pipe of a process, and one that listens to that process.

    Args:
        start: what the sink is made from.
        close_s: how long it may live on when this process is killed.

    Attributes:
        said: lines for the user, oldest first.
        pid: of the process; None before it is started.
    """

    def __init__(self, start: SinkStart, *, close_s: float) -> None:
        self.said: deque[str] = deque()
        self.pid: int | None = None
        self._name = start.kind
        self._samples_every = start.samples_every
        self._close_s = close_s
        self._queue: SimpleQueue[Mapping[str, Any] | None] = SimpleQueue()
        # Long texts make samples the larger ones.
        self._room = {"record": threading.Semaphore(PENDING_RECORDS), "samples": threading.Semaphore(PENDING_SAMPLES)}
        self._left_out = 0
        self._failure = ""
        self._ended = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._feeder = threading.Thread(target=self._run, args=(start,), name=f"sink-{self._name}", daemon=True)
        self._feeder.start()

    def is_due(self, step: int) -> bool:
        """Whether the samples of that step of training are wanted."""
        return self._samples_every > 0 and step % self._samples_every == 0

    def send(self, message: Mapping[str, Any]) -> None:
        """Queue a message, unless too many of its kind wait already; never waits itself."""
        if self._ended.is_set():
            return
        if self._room[_kind(message)].acquire(blocking=False):
            self._queue.put(message)
            return
        self._left_out += 1
        if self._left_out == 1:
            self.said.append(
                f"Warning: {self._name} does not keep up, and what it cannot take is left out there; training goes on, "
                "and the run directory has all of it"
            )

    def finish(self) -> None:
        """Nothing follows."""
        self._queue.put(None)

    def wait(self, deadline: float) -> None:
        """Until the process has ended, or to the deadline (of ``time.monotonic``): then it is killed, and with it what
        it started, such as wandb's own service."""
        self._feeder.join(max(0.0, deadline - time.monotonic()))
        if self._feeder.is_alive() and self._process is not None:
            self._failure = "it did not end in time"
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._feeder.join(5.0)
        if self._left_out:
            self.said.append(f"{self._name}: {self._left_out} records or tables of samples were left out")

    def _run(self, start: SinkStart) -> None:
        try:
            self._serve(start)
        except OSError as error:
            self._failure = self._failure or str(error)
        finally:
            self._ended.set()
            if self._failure:
                self.said.append(
                    f"Warning: {self._name} failed, and gets no more of this run; training goes on ({self._failure})"
                )

    def _serve(self, start: SinkStart) -> None:
        # A service that wandb started for the driver itself is not ours to use, nor to end.
        environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
        process = self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps([sys.path, self._close_s])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            encoding="utf-8",
            start_new_session=True,  # Ctrl-C is for the driver; the sink ends with its input
        )
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        listener = threading.Thread(target=self._listen, args=(process.stdout,), daemon=True)
        listener.start()
        try:
            self._feed(start, process.stdin)
        except BrokenPipeError:
            pass  # it ended; why, it has said
        finally:
            listener.join()
            if process.wait() != 0:
                self._failure = self._failure or f"its process ended with status {process.returncode}"

    def _feed(self, start: SinkStart, pipe: IO[str]) -> None:
        with pipe:
            pipe.write(json.dumps(asdict(start)) + "\n")
            pipe.flush()
            while (message := self._queue.get()) is not None:
                pipe.write(json.dumps(message) + "\n")
                pipe.flush()
                self._room[_kind(message)].release()

    def _listen(self, answers: IO[str]) -> None:
        for line in answers:
            answer = json.loads(line)
            if "said" in answer:
                self.said.append(masked_text(answer["said"], environ=os.environ))
            else:
                self._failure = masked_text(answer["failed"], environ=os.environ)
                log.warning("%s failed: %s", self._name, masked_text(answer["trace"], environ=os.environ))
        self.finish()  # the process ended, perhaps while nothing was sent


def _kind(message: Mapping[str, Any]) -> str:
    return "record" if "record" in message else "samples"
