"""The mailbox: same commands for all ranks, answered when all have answered, errors handed on."""

from __future__ import annotations

import asyncio

import pytest

from bolt_ray.actors.learner_mailbox import LearnerMailbox, SaveCommand, StopCommand
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.core.errors import LearnerLostError, UnhealthyTrainingError

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


def test_a_rank_that_started_again_is_refused_and_no_call_takes_its_answer() -> None:
    async def scenario() -> list[BaseException]:
        mailbox = LearnerMailbox(world_size=2)
        await asyncio.gather(mailbox.register(0), mailbox.register(1))
        call = asyncio.create_task(mailbox.call(SAVE))
        number, _ = await mailbox.next_command(0, 0)
        await mailbox.answer(0, number, "trained so far")
        waiting = asyncio.create_task(mailbox.next_command(0, number))
        await asyncio.sleep(0)
        # The process of rank 1 is another one now, with the first weights.
        refused = [mailbox.register(1), mailbox.next_command(1, 0), call, waiting, mailbox.call(SAVE)]
        return list(await asyncio.wait_for(asyncio.gather(*refused, return_exceptions=True), timeout=60))  # type: ignore[arg-type]

    for error in asyncio.run(scenario()):
        assert isinstance(error, LearnerLostError), error
        assert str(error) == "learner rank 1 started again, without what it had trained"


def test_a_rank_that_started_again_before_the_others_were_there_ends_the_wait_for_them() -> None:
    async def scenario() -> None:
        mailbox = LearnerMailbox(world_size=2)
        ready = asyncio.create_task(mailbox.wait_ready())
        await mailbox.register(0)
        with pytest.raises(LearnerLostError):
            await mailbox.register(0)
        await asyncio.wait_for(ready, timeout=60)

    with pytest.raises(LearnerLostError, match="rank 0 started again"):
        asyncio.run(scenario())


def test_the_ranks_that_owe_an_answer_are_those_of_the_call_under_way() -> None:
    async def scenario() -> list[tuple[ProcessInfo, ...]]:
        mailbox = LearnerMailbox(world_size=2)
        for rank in (0, 1):
            await mailbox.register(rank, process_of(rank))
        seen = [await mailbox.owing()]
        call = asyncio.create_task(mailbox.call(SAVE))
        await asyncio.sleep(0)
        seen.append(await mailbox.owing())
        for rank in (1, 0):
            await mailbox.answer(rank, 1, None, process_of(rank))
            seen.append(await mailbox.owing())
        await call
        return seen

    both = (process_of(0), process_of(1))
    assert asyncio.run(scenario()) == [(), both, both[:1], ()]
