"""The mailbox between the driver and the learner ranks.

    driver ──call(command)──▶ LearnerMailbox ◀──next_command(rank, after)── rank 0 … W-1
           ◀──rank 0's result──              ◀──answer(rank, number, result, process)──
           ──owing()──▶ the ranks that have not answered

Ray Train's ``fit`` blocks and its workers cannot be called, so long-lived workers *pull* their commands. Every
rank gets the same commands in the same order, numbered from 1; a call returns when every rank has answered.

A mailbox serves one group of processes. A rank that comes back in a new process has lost what it trained: it is
refused, and every call fails from then on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from bolt_ray.actors.processes import ProcessInfo, ProcessMonitor
from bolt_ray.core.errors import LearnerLostError
from bolt_ray.engines.profiler import ProfileTarget


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCommand:
    """Train one step. ``batch`` is an object reference to a ``TrainingBatch``, shared by all ranks.

    Attributes:
        profile: what each rank records meanwhile.
    """

    batch: Any
    profile: ProfileTarget | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishCommand:
    """Publish the policy as ``version``; rank 0 answers with ``PublishedWeights``.

    Attributes:
        probes: token ids of the parity probes, whose log-probs are returned with the weights.
        adapter_directory: where a LoRA adapter is written, on storage the generators read; None publishes all
            weights.
    """

    version: int
    probes: list[NDArray[np.int32]]
    adapter_directory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveCommand:
    """Write the learner state under ``directory``; with ``model_directory``, also a plain model there.

    Rank 0 answers with the digests of what the ranks wrote, by path.
    """

    directory: str | None
    model_directory: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopCommand:
    """Leave the loop; the training function returns."""


Command = TrainCommand | PublishCommand | SaveCommand | StopCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a call returns.

    Attributes:
        result: rank 0's.
        processes: every rank's that said its own.
    """

    result: Any
    processes: tuple[ProcessInfo, ...]


@dataclass(slots=True)
class _Call:
    number: int
    command: Command
    answers: dict[int, Any] = field(default_factory=dict)
    processes: dict[int, ProcessInfo] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)


class LearnerMailbox:
    """An async actor; one call runs at a time."""

    def __init__(self, *, world_size: int) -> None:
        self._world_size = world_size
        self._monitor = ProcessMonitor("learner", "learner-mailbox")
        self._ready: set[int] = set()
        self._registered: dict[int, ProcessInfo] = {}
        self._all_ready = asyncio.Event()
        self._posted = asyncio.Condition()
        self._call: _Call | None = None
        self._count = 0
        self._failure: str | None = None
        self._owners: dict[str, Any] = {}

    def __repr__(self) -> str:
        """What Ray shows."""
        return "learner-mailbox"

    async def process(self) -> ProcessInfo:
        """The mailbox's own."""
        return self._monitor.info()

    async def registered(self) -> tuple[ProcessInfo, ...]:
        """The ranks that said who they are."""
        return tuple(process for _, process in sorted(self._registered.items()))

    async def owing(self) -> tuple[ProcessInfo, ...]:
        """The ranks that have not answered the call under way; before the first, those waited for are not known."""
        if self._call is None:
            return ()
        answered = self._call.answers
        return tuple(process for rank, process in sorted(self._registered.items()) if rank not in answered)

    async def register(self, rank: int, process: ProcessInfo | None = None) -> None:
        """A rank has built its learner and waits for commands.

        Raises:
            LearnerLostError: it did so before, in a process that is gone.
        """
        if rank in self._ready:
            self._failure = f"learner rank {rank} started again, without what it had trained"
            self._all_ready.set()
            if self._call is not None:
                self._call.done.set()
            async with self._posted:
                self._posted.notify_all()
        self._check()
        self._ready.add(rank)
        if process is not None:
            self._registered[rank] = process
        if len(self._ready) == self._world_size:
            self._all_ready.set()

    async def set_owner(self, name: str, owner: Any) -> None:
        """Keep what the ranks end with: their "controller", an actor, or their "placement" group."""
        self._owners[name] = owner

    async def owners(self) -> dict[str, Any]:
        """What is kept so far, by name."""
        return self._owners

    async def wait_ready(self) -> dict[str, Any]:
        """Return when every rank has registered, with what they end with.

        Raises:
            LearnerLostError: one of them started twice.
        """
        await self._all_ready.wait()
        self._check()
        return self._owners

    async def call(self, command: Command) -> Reply:
        """Give ``command`` to every rank and return when all have answered.

        Raises:
            LearnerLostError: a rank started again.
            BoltRayError: the error a rank answered with.
        """
        self._check()
        self._count += 1
        call = _Call(number=self._count, command=command)
        async with self._posted:
            self._call = call
            self._posted.notify_all()
        await call.done.wait()
        self._check()
        for answer in call.answers.values():
            if isinstance(answer, BaseException):
                raise answer
        return Reply(result=call.answers[0], processes=tuple(call.processes[rank] for rank in sorted(call.processes)))

    async def next_command(self, rank: int, after: int) -> tuple[int, Command]:
        """The first command numbered above ``after``; waits until there is one.

        Raises:
            LearnerLostError: a rank started again.
        """
        async with self._posted:
            await self._posted.wait_for(
                lambda: self._failure is not None or (self._call is not None and self._call.number > after)
            )
        self._check()
        assert self._call is not None
        return self._call.number, self._call.command

    async def answer(self, rank: int, number: int, result: Any, process: ProcessInfo | None = None) -> None:
        """A rank's answer to command ``number`` (large ones as an object reference in a list), or the error it ended
        with."""
        call = self._call
        if call is None or call.number != number:
            return
        call.answers[rank] = result
        if process is not None:
            call.processes[rank] = process
        # One rank's error is enough: the others may be stuck in a collective that it left.
        if isinstance(result, BaseException) or len(call.answers) == self._world_size:
            call.done.set()

    def _check(self) -> None:
        if self._failure is not None:
            raise LearnerLostError(self._failure)


RemoteLearnerMailbox = ray.remote(LearnerMailbox)
