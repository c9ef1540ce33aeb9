"""The mailbox: same commands for all ranks, answered when all have answered, errors handed on."""

from __future__ import annotations

import asyncio

import pytest

from bolt_ray.actors.learner_mailbox import LearnerMailbox, SaveCommand, StopCommand
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.core.errors import UnhealthyTrainingError

SAVE = SaveCommand(directory="a")


async def serve(mailbox: LearnerMailbox, rank: int, answers: list[object]) -> list[object]:
    """A rank that gives ``answers`` one after the other; returns the commands it was given."""
    number, seen = 0, []
    await mailbox.register(rank)
    for answer in answers:
        number, command = await mailbox.next_command(rank, number)
        seen.append(command)
        await mailbox.answer(rank, number, answer, process_of(rank))
    return seen


def process_of(rank: int) -> ProcessInfo:
    return ProcessInfo(
        role="learner", name=f"learner-{rank}", node="n", pid=rank, host_bytes=1, gpu_bytes=None, node_fraction=0.5
    )


def test_every_rank_gets_every_command_once_and_rank_0_answers() -> None:
    async def scenario() -> tuple[object, object, list[object], list[object]]:
        mailbox = LearnerMailbox(world_size=2)
        ranks = [asyncio.create_task(serve(mailbox, rank, [f"{rank}a", f"{rank}b"])) for rank in (0, 1)]
        await mailbox.wait_ready()
        first, second = await mailbox.call(SAVE), await mailbox.call(StopCommand())
        assert first.processes == (process_of(0), process_of(1))
        return first.result, second.result, *await asyncio.gather(*ranks)

    first, second, rank_0, rank_1 = asyncio.run(scenario())
    assert (first, second) == ("0a", "0b")
    assert rank_0 == rank_1 == [SAVE, StopCommand()]


def test_a_call_waits_for_all_ranks() -> None:
    async def scenario() -> bool:
        mailbox = LearnerMailbox(world_size=2)
        call = asyncio.create_task(mailbox.call(SAVE))
        await serve(mailbox, 0, ["done"])
        await asyncio.sleep(0)
        early = call.done()
        await serve(mailbox, 1, ["done"])
        assert (await call).result == "done"
        return early

    assert asyncio.run(scenario()) is False


def test_the_error_of_one_rank_ends_the_call_at_once() -> None:
    async def scenario() -> None:
        mailbox = LearnerMailbox(world_size=2)
        call = asyncio.create_task(mailbox.call(SAVE))
        await serve(mailbox, 1, [UnhealthyTrainingError("5 bad steps in a row")])
        await call

    with pytest.raises(UnhealthyTrainingError, match="5 bad steps"):
        asyncio.run(scenario())
