"""A learner that hangs, with the real mailbox and ranks that do nothing else: in a collective, and a mailbox itself."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
import ray

from bolt_ray.actors.learner_mailbox import RemoteLearnerMailbox, SaveCommand
from bolt_ray.actors.learner_stall import tell_stall
from bolt_ray.actors.processes import ProcessInfo, ProcessMonitor
from bolt_ray.actors.stacks import dump

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]

DEADLINE_S = 60.0


class Rank:
    """Answers a first command; of the second, rank 1 loses its way to the collective in which the others wait."""

    def __init__(self, rank: int, mailbox: Any) -> None:
        self._rank, self._mailbox = rank, mailbox
        self._process = ProcessMonitor("learner", f"learner-{rank}").info()

    def work(self) -> None:
        ray.get(self._mailbox.register.remote(self._rank, self._process))
        number, _ = ray.get(self._mailbox.next_command.remote(self._rank, 0))
        ray.get(self._mailbox.answer.remote(self._rank, number, None, self._process))
        ray.get(self._mailbox.next_command.remote(self._rank, number))
        if self._rank == 0:
            self.all_reduce()
        elif self._rank == 1:
            self.loses_its_way()
        else:
            ray.get(self._mailbox.answer.remote(self._rank, number + 1, None, self._process))

    def all_reduce(self) -> None:
        time.sleep(1000)

    def loses_its_way(self) -> None:
        time.sleep(1000)


def owing(mailbox: Any, names: list[str]) -> None:
    """Wait until just these ranks have not answered."""
    deadline = time.monotonic() + DEADLINE_S
    while [process.name for process in ray.get(mailbox.owing.remote(), timeout=DEADLINE_S)] != names:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_ranks_that_owe_an_answer_are_named_and_else_the_mailbox(caplog: pytest.LogCaptureFixture) -> None:
    mailbox: Any = RemoteLearnerMailbox.options(num_cpus=0, max_concurrency=32).remote(world_size=3)
    actors: list[Any] = [ray.remote(num_cpus=0)(Rank).remote(rank, mailbox) for rank in range(3)]
    for actor in actors:
        actor.work.remote()
    ray.get(mailbox.wait_ready.remote(), timeout=DEADLINE_S)
    own: ProcessInfo = ray.get(mailbox.process.remote(), timeout=DEADLINE_S)
    assert own.name == "learner-mailbox"
    ray.get(mailbox.call.remote(SaveCommand(directory="a")), timeout=DEADLINE_S)
    mailbox.call.remote(SaveCommand(directory="b"))
    owing(mailbox, ["learner-0", "learner-1"])

    told = tell_stall(mailbox, "training step 7", waited_s=1800.0, own=own)
    assert "has waited for training step 7 since " in told
    assert "learner-0 (process " in told and "learner-1 (process " in told and "learner-2" not in told
    if dump(os.getpid()):  # where py-spy may look at processes
        first, second = (record.getMessage() for record in caplog.records)
        assert "all_reduce (test_learner_stall.py" in first
        assert "loses_its_way (test_learner_stall.py" in second

    os.kill(own.pid, signal.SIGSTOP)
    try:
        told = tell_stall(mailbox, "training step 7", waited_s=1800.0, own=own)
    finally:
        os.kill(own.pid, signal.SIGKILL)
    assert "and the learner's mailbox does not answer, since " in told
    assert told.endswith(f"from learner-mailbox (process {own.pid} on {own.node})")
    for actor in actors:
        ray.kill(actor)
