"""Runs rewards in an isolated process: whatever a reward does, the caller gets a verdict or a reason in bounded time.

    scorer ──frames──▶ RewardProcess ──▶ child process (worker.py): raises, hangs, exits, segfaults, eats memory
       ▲                    │ killed with everything it started; the next call starts a new one
       └── Verdict per completion: a finite float, or Unscored(kind, detail)

When a reward that scores one completion at a time fails, the failing completion is known. A batched one is called
again with halves of the batch until the failing completion is alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bolt_ray.core.errors import ConfigError
from bolt_ray.rewards.process.environment import reward_environment, withheld_hint
from bolt_ray.rewards.process.json_socket import FrameSocket, PeerGoneError, PeerTimeoutError
from bolt_ray.rewards.process.wire import to_message
from bolt_ray.rewards.protocol import Noted, RewardInput, Unscored, Verdict, verdict_of
from bolt_ray.rewards.settings import RewardSettings

TAG_VARIABLE = "BOLT_RAY_REWARD_PROCESS"
MAX_BATCH_TIMEOUTS = 16
"""After so many timeouts on one batch, a batched reward is not called again for the rest of it."""

_START = (
    "import json, sys; path, fd, parent = json.loads(sys.argv[1]); sys.path[:] = path;"
    "from bolt_ray.rewards.process.worker import main; main(fd, parent)"
)
_KILL_DEADLINE_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOutcome:
    """What one call of one reward gave.

    Attributes:
        verdicts: by position in the call's inputs; positions without a verdict because of the failure are missing.
        failure: why the call did not complete, or None.
    """

    verdicts: Mapping[int, Verdict]
    failure: Unscored | None = None


class RewardProcess:
    """One child process with some rewards in it; started once, used for many calls, replaced when it fails.

    Start and call it from a thread that lives as long as it is needed: the kernel kills the child when the
    thread that started it ends.

    Args:
        rewards: the rewards to build in it, addressed by position.
        startup_timeout_s: limit on starting, with the imports and models the rewards need.

    Attributes:
        starts: how often a child was started.
        tag: what the child, and whatever it starts, carries in its environment.
        shapes: per reward the shape of the user's function behind it, "" where there is none; after the first start.
    """

    def __init__(self, *, rewards: Sequence[RewardSettings], startup_timeout_s: float) -> None:
        self._rewards = tuple(rewards)
        self._startup_timeout_s = startup_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: FrameSocket | None = None
        self._death_fd = -1
        self._batched: list[bool] = []  # known after the first start
        self._ready = False
        self._environment: dict[str, str] = {}
        self.tag = ""
        self.starts = 0
        self.shapes: list[str] = []

    @property
    def pid(self) -> int | None:
        """The child's process id, or None while there is none."""
        return self._process.pid if self._process else None

    def launch(self) -> None:
        """Start the child without waiting until it is ready, so that several can load at once."""
        ours, theirs = socket.socketpair()
        self.tag = uuid.uuid4().hex
        arguments = json.dumps([sys.path, theirs.fileno(), os.getpid()])
        named = {name for reward in self._rewards for name in reward.variables}
        self._environment = reward_environment(named, os.environ)
        environment = {"OMP_NUM_THREADS": "1", **self._environment, TAG_VARIABLE: self.tag}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, arguments],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        self._death_fd = os.pidfd_open(self._process.pid)
        self._channel = FrameSocket(ours, death_fd=self._death_fd)
        self.starts += 1
        hello = {
            "sys_path": sys.path,
            "memory_mb": max(r.limit_mb for r in self._rewards),
            "rewards": [to_message(r) for r in self._rewards],
        }
        # If the child is dead already, start() finds out when it waits for the answer.
        with contextlib.suppress(PeerGoneError, PeerTimeoutError):
            self._channel.send(hello, timeout_s=self._startup_timeout_s)

    def start(self) -> None:
        """Start the child if it is not running, and wait until its rewards are built.

        Raises:
            ConfigError: a reward cannot be built: not found, failing at import, wrong options, or too slow.
        """
        names = ", ".join(r.part_name for r in self._rewards)
        try:
            if self._process is None:
                self.launch()
            assert self._channel is not None
            answer = self._channel.receive(timeout_s=self._startup_timeout_s)
        except PeerTimeoutError:
            self.close()
            raise ConfigError(
                f"rewards: {names} did not start within {self._startup_timeout_s:g} s; "
                "make the import or the model loading faster, or raise `startup_timeout_s`"
            ) from None
        except PeerGoneError:
            end = self._end_of_child()
            self.close()
            raise ConfigError(f"rewards: the process of {names} ended while starting ({end})") from None
        if "ready" not in answer:
            self.close()
            why = str(answer.get("failed", ["", answer])[1])
            raise ConfigError(f"rewards: {names} cannot be built: {why}{self._hint(why)}")
        self._batched, self.shapes, self._ready = list(answer["batched"]), list(answer["shapes"]), True

    def score(self, index: int, inputs: Sequence[RewardInput]) -> list[Verdict]:
        """Score completions with one reward; never raises for what the reward does.

        Args:
            index: position of the reward among those the process was made for.
            inputs: the completions.

        Returns:
            one verdict per completion, in order.
        """
        verdicts: dict[int, Verdict] = {}
        groups = [list(range(len(inputs)))] if inputs else []
        timeouts = 0
        while groups:
            group = groups.pop(0)
            if timeouts >= MAX_BATCH_TIMEOUTS:
                given_up = Unscored("timeout", f"not tried alone: {timeouts} calls for this batch timed out")
                verdicts |= dict.fromkeys(group, given_up)
                continue
            outcome = self.call(index, [inputs[i] for i in group])
            verdicts |= {group[i]: verdict for i, verdict in outcome.verdicts.items()}
            left = [i for i in group if i not in verdicts]
            if not left or outcome.failure is None:
                continue
            failure = outcome.failure
            batched = bool(self._batched) and self._batched[index]
            timeouts += batched and failure.kind == "timeout"
            if not batched and failure.kind != "start":
                verdicts[left[0]] = failure
                groups[:0] = [left[1:]] if len(left) > 1 else []
            elif len(left) == 1:
                verdicts[left[0]] = failure
            elif failure.kind == "start":
                verdicts |= dict.fromkeys(left, failure)
            else:
                groups += [left[: len(left) // 2], left[len(left) // 2 :]]
        return [verdicts[i] for i in range(len(inputs))]

    def call(self, index: int, inputs: Sequence[RewardInput]) -> CallOutcome:
        """One call of one reward, without a second try. The timeout counts from each verdict to the next."""
        spec = self._rewards[index]
        if self._process is not None and self._process.poll() is not None:
            self.close()  # it ended between two calls: no completion of this call is the cause
        if not self._ready:
            try:
                self.start()
            except ConfigError as problem:
                return CallOutcome(verdicts={}, failure=Unscored("start", str(problem)))
        assert self._channel is not None
        verdicts: dict[int, Verdict] = {}
        request = {
            "score": index,
            "inputs": [item.to_dict(token_ids=spec.reads_token_ids) for item in inputs],
            "cpu_s": spec.limit_s * (os.cpu_count() or 1),
        }
        try:
            self._channel.send(request, timeout_s=spec.limit_s)
            while True:
                answer = self._channel.receive(timeout_s=spec.limit_s)
                if "done" in answer:
                    return self._completed(verdicts, len(inputs))
                if "failed" in answer:
                    return CallOutcome(verdicts={}, failure=self._explained(Unscored(*map(str, answer["failed"]))))
                verdict = _verdict(answer)
                verdicts[int(answer["item"])] = self._explained(verdict) if isinstance(verdict, Unscored) else verdict
        except PeerTimeoutError:
            self.close()
            failure = Unscored("timeout", f"no answer within {spec.limit_s:g} s")
        except (PeerGoneError, KeyError, TypeError, ValueError) as problem:
            end = self._end_of_child() if isinstance(problem, PeerGoneError) else "it sent no verdict"
            self.close()
            failure = Unscored("crash", end)
        return CallOutcome(verdicts=verdicts, failure=failure)

    def close(self) -> None:
        """End the child and everything it started; a later call starts a new one."""
        if self._process is None:
            return
        _kill(self._process, self.tag)
        if self._channel is not None:
            self._channel.close()
        os.close(self._death_fd)
        self._process, self._channel, self._ready = None, None, False

    def _completed(self, verdicts: dict[int, Verdict], count: int) -> CallOutcome:
        if sorted(verdicts) == list(range(count)):
            return CallOutcome(verdicts=verdicts)
        return CallOutcome(verdicts={}, failure=Unscored("wrong_count", f"{len(verdicts)} verdicts of {count}"))

    def _explained(self, problem: Unscored) -> Unscored:
        """An exception for want of a variable says where it is named."""
        return Unscored(problem.kind, problem.detail + self._hint(problem.detail))

    def _hint(self, text: str) -> str:
        return withheld_hint(text, self._environment, os.environ)

    def _end_of_child(self) -> str:
        """How the child ended, as text: its exit status, or the signal that killed it."""
        assert self._process is not None
        try:
            status = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return "it closed the connection"
        if status >= 0:
            return f"it exited with status {status}"
        return f"it was killed by {signal.Signals(-status).name}"


def _verdict(answer: Mapping[str, Any]) -> Verdict:
    if "unscored" in answer:
        kind, detail = answer["unscored"]
        return Unscored(str(kind), str(detail))
    if "metrics" in answer:
        return verdict_of(Noted(value=answer["value"], metrics=dict(answer["metrics"]), extras=dict(answer["extras"])))
    return verdict_of(answer["value"])


def _kill(process: subprocess.Popen[bytes], tag: str) -> None:
    """Kill a child, its process group, and whatever else carries its tag in its environment; reap it."""
    deadline = time.monotonic() + _KILL_DEADLINE_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while (left := tagged_processes(tag)) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def tagged_processes(tag: str) -> list[int]:
    """Pids of the processes that inherited ``tag`` from a reward process; those already dead are left out."""
    needle = f"{TAG_VARIABLE}={tag}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = entry.read_bytes()
        except OSError:
            continue
        if needle in environment.split(b"\0"):
            found.append(int(entry.parent.name))
    return found
