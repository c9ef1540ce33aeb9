"""The rollout loop with fakes of the generator and scorer pools: one step, staleness, groups, refills, resume."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields

import numpy as np
import pytest
from support.fakes import (
    TIMEOUT,
    FakeBaseline,
    FakeGenerators,
    FakeScorers,
    last_version_of,
    logprobs_of,
    n_eff_of,
    tokens_of,
    v_hat_of,
    visits_of,
)

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.scorer_actor import ScoringRequest
from bolt_ray.core.errors import DataError, RunError, StallError
from bolt_ray.core.records import Completion, DrawnPrompt, DroppedRollout, GenerationRequest, Prompt
from bolt_ray.training.completions import CompletionService, request_seed
from bolt_ray.training.in_flight import SavedRequest
from bolt_ray.training.rollout import RolloutLoop
from bolt_ray.training.settings import RolloutSettings


def process(name: str) -> ProcessInfo:
    """One that is no more: larger numbers are given to none."""
    return ProcessInfo(
        role="generator", name=name, node="a", pid=2**22 + 1, host_bytes=0, gpu_bytes=None, node_fraction=0.0
    )


def drawn(group_id: int, num_samples: int = 1) -> DrawnPrompt:
    """Draw n is row n + 40 with the tokens [n, n + 1]: no two numbers of it are the same."""
    row = group_id + 40
    prompt = Prompt(row=row, key=f"key-{row}", prompt=f"p{row}", answer=f"a{row}", source="s", metadata={"row": row})
    token_ids = np.array([group_id, group_id + 1], dtype=np.int32)
    return DrawnPrompt(group_id=group_id, prompt=prompt, token_ids=token_ids, num_samples=num_samples)


def prompts(num_samples: int = 1) -> Iterator[DrawnPrompt]:
    group_id = 0
    while True:
        yield drawn(group_id, num_samples)
        group_id += 1


def redraw(requests: Sequence[SavedRequest]) -> list[DrawnPrompt]:
    """The prompts of saved requests, found by their row."""
    found = [drawn(request.row - 40, request.num_samples) for request in requests]
    assert [prompt.group_id for prompt in found] == [request.group_id for request in requests]
    return found


def make_loop(
    generators: FakeGenerators, scorers: FakeScorers | None = None, *, num_samples: int = 1, **settings: object
) -> RolloutLoop:
    sizes: dict[str, object] = {"rollouts_per_step": 4}
    sizes |= {field.name: settings.pop(field.name) for field in fields(RolloutSettings) if field.name in settings}
    defaults: dict[str, object] = {"keep_groups": False, "seed": 7, "stall_s": 0.2, "prompts": prompts(num_samples)}
    return RolloutLoop(
        service=CompletionService(generators=generators, scorers=scorers or FakeScorers()),
        baseline=FakeBaseline(),
        settings=RolloutSettings(**sizes),  # type: ignore[arg-type]
        **(defaults | settings),  # type: ignore[arg-type]
    )


def ids(items: Sequence[Completion]) -> list[int]:
    return [item.request_id for item in items]


def saved_ids(loop: RolloutLoop) -> list[int]:
    return [request["request_id"] for request in loop.state_dict()["in_flight"]]


def test_on_policy_dispatches_exactly_one_step_and_waits_for_the_release() -> None:
    generators = FakeGenerators()
    loop = make_loop(generators)
    assert ids(loop.next_step().trainable) == [0, 1, 2, 3]
    loop.pump()
    assert len(generators.seen) == 4, "nothing may be generated before the next version"
    generators.version = 1
    loop.release(1)
    second = loop.next_step()
    assert ids(second.trainable) == [4, 5, 6, 7]
    assert {item.oldest_version for item in second.trainable} == {1}


def test_every_completion_meets_what_was_read_when_it_was_dispatched() -> None:
    generators, scorers = FakeGenerators(backwards=True), FakeScorers(lambda request: request.request_id / 8)
    loop = make_loop(generators, scorers, num_samples=2)
    for version in (0, 1):
        step = loop.next_step()
        assert ids(step.trainable) == [4 * version + i for i in range(4)]
        for item in step.trainable:
            group, key = item.request_id // 2, f"key-{item.request_id // 2 + 40}"
            assert (item.group_id, item.sample_index) == (group, item.request_id % 2)
            assert (item.prompt.key, item.prompt.row) == (key, group + 40)
            assert item.prompt_token_ids.tolist() == [group, group + 1]
            assert (item.v_hat, item.n_eff) == (v_hat_of(key, version), n_eff_of(key, version))
            assert (item.last_version, item.visits) == (last_version_of(key, version), visits_of(key))
            assert (item.policy_version, item.oldest_version) == (version, version)
            assert item.token_ids.tolist() == tokens_of(item.request_id)
            assert item.logprobs.tolist() == logprobs_of(item.request_id)
            assert (item.reward, item.parts) == (item.request_id / 8, {"fake": item.request_id / 8})
        generators.version = version + 1
        loop.release(version + 1)


def test_generators_get_tokens_and_seed_and_scorers_get_text() -> None:
    generators, scorers = FakeGenerators(), FakeScorers()
    make_loop(generators, scorers).next_step()
    assert [(request.kind, request.token_ids.tolist(), request.seed) for request in generators.seen] == [
        ("train", [n, n + 1], request_seed(7, n)) for n in range(4)
    ]
    third = scorers.seen[2].input
    assert (third.prompt, third.answer, third.source, third.metadata) == ("p42", "a42", "s", {"row": 42})
    assert (third.completion, third.num_tokens, third.evaluation) == (str(request_seed(7, 2)), 2, False)
    assert third.prefill == ""


def test_scorers_learn_what_the_prompt_opened_of_the_answer() -> None:
    generators, scorers = FakeGenerators(), FakeScorers()
    service = CompletionService(
        generators=generators, scorers=scorers, opened=lambda token_ids: f"<{token_ids.tolist()}>"
    )
    prompt = Prompt(row=0, key="key-0", prompt="p")
    service.submit(
        [GenerationRequest(request_id=5, kind="eval", token_ids=np.array([3, 4], dtype=np.int32), seed=0)], [prompt]
    )
    service.pump(0.0)
    assert [(request.request_id, request.input.prefill) for request in scorers.seen] == [(5, "<[3, 4]>")]


def test_staleness_one_generates_the_next_step_while_this_one_trains() -> None:
    generators = FakeGenerators()
    loop = make_loop(generators, max_staleness=1)
    assert ids(loop.next_step().trainable) == [0, 1, 2, 3]
    loop.pump()
    assert len(generators.seen) == 8
    generators.version = 1
    loop.release(1)
    second = loop.next_step()
    assert ids(second.trainable) == [4, 5, 6, 7]
    assert {loop.version - item.oldest_version for item in second.trainable} == {1}
    loop.pump()
    loop.release(2)
    assert {item.policy_version for item in loop.next_step().trainable} == {1}


def test_a_straggler_is_carried_over_and_dropped_only_when_too_old() -> None:
    generators = FakeGenerators(slow=[1])
    loop = make_loop(generators, max_staleness=1)
    assert ids(loop.next_step().trainable) == [0, 2, 3, 4]
    for version in (1, 2):
        generators.version = version
        loop.release(version)
        if version == 1:
            assert 1 not in ids(loop.next_step().trainable)
    generators.slow.clear()
    third = loop.next_step()
    # Its last token is of the present version, its first two versions older.
    assert third.dropped == (DroppedRollout(request_id=1, reason="stale"),)
    assert [(item.request_id, item.oldest_version, item.newest_version) for item in third.baseline_only] == [(1, 0, 2)]
    assert len(third.trainable) == 4


def test_a_step_stands_in_the_order_of_its_requests_whatever_arrives_first() -> None:
    generators = FakeGenerators(slow=[0])
    loop = make_loop(generators, check=generators.slow.clear)
    loop.pump()
    assert ids(loop.next_step().trainable) == [0, 1, 2, 3]


def test_the_oldest_completions_are_trained_first() -> None:
    loop = make_loop(FakeGenerators(backwards=True), max_staleness=1)
    assert ids(loop.next_step().trainable) == [0, 1, 2, 3]


def test_a_request_that_the_generators_gave_up_is_dropped_with_their_reason() -> None:
    generators, scorers = FakeGenerators(given_up=[1]), FakeScorers()
    step = make_loop(generators, scorers).next_step()
    assert ids(step.trainable) == [0, 2, 3]
    (unscored,) = step.unscored
    assert (unscored.request_id, unscored.prompt.row, len(unscored.token_ids)) == (1, 41, 0)
    assert str(unscored.reason) == "generator: lost: 2 generators were lost over it; the last: it died"
    assert step.dropped == (DroppedRollout(request_id=1, reason="unscored"),)
    assert [request.request_id for request in scorers.seen] == [0, 2, 3]


def test_unscored_completions_fill_the_step_and_are_not_trained() -> None:
    loop = make_loop(FakeGenerators(), FakeScorers(lambda request: None if request.request_id == 2 else 1.0))
    step = loop.next_step()
    assert ids(step.trainable) == [0, 1, 3]
    assert [(item.request_id, item.group_id, item.prompt.row, item.reason) for item in step.unscored] == [
        (2, 2, 42, TIMEOUT)
    ]
    (unscored,) = step.unscored
    assert (unscored.v_hat, unscored.visits) == (v_hat_of("key-42", 0), visits_of("key-42"))
    assert (unscored.last_version, unscored.policy_version, unscored.sample_index) == (-1, 0, 0)
    assert step.dropped == (DroppedRollout(request_id=2, reason="unscored"),)


def test_groups_are_kept_whole() -> None:
    generators = FakeGenerators(slow=[1])
    loop = make_loop(generators, num_samples=2, keep_groups=True, max_staleness=1)
    first = loop.next_step()
    assert ids(first.trainable) == [2, 3, 4, 5]


def test_dynamic_sampling_refills_groups_without_variance() -> None:
    rewards = {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.0, 4: 0.0, 5: 1.0}
    scorers = FakeScorers(lambda request: rewards.get(request.request_id, 1.0))
    loop = make_loop(
        FakeGenerators(), scorers, num_samples=2, keep_groups=True, dynamic_sampling=True, dynamic_sampling_rounds=1
    )
    step = loop.next_step()
    assert ids(step.trainable) == [2, 3, 4, 5]
    assert step.refilled == 2
    assert ids(step.baseline_only) == [0, 1]
    assert step.dropped == tuple(DroppedRollout(request_id=i, reason="zero_variance") for i in (0, 1))
    loop.release(1)
    assert saved_ids(loop) == []


def test_dynamic_sampling_looks_at_rewards_without_shaping() -> None:
    """Answers that are all right say nothing, whatever a length penalty makes of them (DAPO filters on accuracy)."""
    rewards = {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.0, 4: 0.0, 5: 1.0}
    scorers = FakeScorers(lambda request: rewards.get(request.request_id, 1.0), slope=-0.01)
    loop = make_loop(
        FakeGenerators(), scorers, num_samples=2, keep_groups=True, dynamic_sampling=True, dynamic_sampling_rounds=1
    )
    assert ids(loop.next_step().trainable) == [2, 3, 4, 5]


def test_dynamic_sampling_gives_up_after_its_rounds() -> None:
    loop = make_loop(
        FakeGenerators(), num_samples=2, keep_groups=True, dynamic_sampling=True, dynamic_sampling_rounds=2
    )
    step = loop.next_step()
    assert step.refilled == 8
    assert len(step.trainable) == 4


def test_nothing_arriving_is_a_stall_that_says_who_waits_for_whom_since_when() -> None:
    generators = FakeGenerators(slow=range(4))
    generators.processes = [process("generator-0"), process("generator-1")]
    scorers = FakeScorers()
    scorers.processes = [process("scorer-0")]
    with pytest.raises(StallError) as caught:
        make_loop(generators, scorers).next_step()
    message = re.sub(r"since \S+ \(0 s\)", "since T", str(caught.value))
    assert message == (
        "the driver has waited for completions of a step, 0 of 4 are ready since T, from generator-0 (process 4194305 "
        "on a), generator-1 (process 4194305 on a): no token and no score since, while 4 are being generated and 0 "
        "scored (deadlines.generation_s sets this limit)"
    )


def test_an_answer_that_grows_is_waited_for() -> None:
    generators = FakeGenerators(slow=[3])

    def check() -> None:
        generators.progress += 1
        if generators.progress == 50:
            generators.slow.clear()

    assert ids(make_loop(generators, check=check, stall_s=0.0).next_step().trainable) == [0, 1, 2, 3]


def test_a_pause_shorter_than_the_limit_is_no_stall() -> None:
    generators = FakeGenerators(slow=range(4))
    calls: list[int] = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 20:
            generators.slow.clear()

    assert ids(make_loop(generators, check=check, stall_s=60.0).next_step().trainable) == [0, 1, 2, 3]


def test_resume_issues_the_requests_in_flight_again_before_new_draws() -> None:
    generators = FakeGenerators(slow=[5])
    loop = make_loop(generators, num_samples=2, max_staleness=1)
    loop.next_step()
    loop.pump()
    loop.release(1)
    state = json.loads(json.dumps(loop.state_dict()))
    assert [(r["request_id"], r["group_id"], r["sample_index"]) for r in state["in_flight"]] == [
        (4, 2, 0),
        (5, 2, 1),
        (6, 3, 0),
        (7, 3, 1),
    ]

    again = FakeGenerators()
    resumed = make_loop(again, num_samples=2, max_staleness=1, version=1)
    resumed.load_state_dict(state, redraw=redraw)
    step = resumed.next_step()
    assert ids(step.trainable) == [4, 5, 6, 7]
    assert [(item.group_id, item.sample_index, item.prompt.row) for item in step.trainable] == [
        (2, 0, 42),
        (2, 1, 42),
        (3, 0, 43),
        (3, 1, 43),
    ]
    assert [request.seed for request in again.seen[:4]] == [request_seed(7, i) for i in (4, 5, 6, 7)]
    assert again.seen[4].request_id == 8


def test_a_checkpoint_keeps_what_a_resumed_run_has_not_issued_again_yet() -> None:
    loop = make_loop(FakeGenerators(slow=range(12)), max_staleness=2)
    loop.pump()
    # The resumed run may have four in flight at a time; after its first step eight are left, of which none is issued.
    resumed = make_loop(FakeGenerators())
    resumed.load_state_dict(loop.state_dict(), redraw=redraw)
    assert ids(resumed.next_step().trainable) == [0, 1, 2, 3]
    resumed.release(1)
    assert saved_ids(resumed) == list(range(4, 12))


def test_an_interrupt_while_waiting_loses_nothing() -> None:
    class Stop(Exception):  # noqa: N818
        pass

    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Stop

    loop = make_loop(FakeGenerators(slow=[3]), check=check, stall_s=60.0)
    with pytest.raises(Stop):
        loop.next_step()
    assert saved_ids(loop) == [0, 1, 2, 3]


def test_request_seeds_are_those_of_every_version() -> None:
    # Other numbers would make a resumed run continue with other completions.
    seeds = [request_seed(seed, request_id) for seed, request_id in [(0, 0), (0, 1), (7, 0), (123, 45678)]]
    assert seeds == [788460179, 703135797, 1531577978, 678996761]
    assert len({request_seed(0, i) for i in range(1000)}) == 1000


def sized_prompts(sizes: Sequence[int]) -> Iterator[DrawnPrompt]:
    return (drawn(group_id, sizes[group_id % len(sizes)]) for group_id in itertools.count())


def after(calls: int, then: Callable[[], None]) -> Callable[[], None]:
    """A check that does something the n-th time it is called."""
    left = itertools.count(calls, -1)
    return lambda: then() if next(left) == 0 else None


@pytest.mark.parametrize("keep_groups", [True, False])
def test_on_policy_a_step_takes_all_that_was_made_for_it(keep_groups: bool) -> None:
    """Draws of 1, 2 and 3 come to 6 where 4 are needed; the smallest group, made for nothing before, is trained too."""
    generators = FakeGenerators(slow=[0])
    loop = make_loop(
        generators, keep_groups=keep_groups, check=after(3, generators.slow.clear), prompts=sized_prompts([1, 2, 3])
    )
    for step in range(2):
        rollouts = loop.next_step()
        assert ids(rollouts.trainable) == [6 * step + i for i in range(6)]
        assert rollouts.dropped == ()
        generators.version += 1
        loop.release(generators.version)
    assert loop.account == "12 dispatched = 12 trained + 0 dropped + 0 in flight"


def test_every_completion_is_accounted_for_at_every_step() -> None:
    """Groups of three, a straggler that gets too old, groups without variance and completions without a score."""
    generators = FakeGenerators(slow=[7])

    def reward_of(request: ScoringRequest) -> float | None:
        group, index = divmod(request.request_id, 3)
        if group % 5 == 1 and index == 0:
            return None
        return 1.0 if group % 3 == 0 else float(index)

    loop = make_loop(
        generators,
        FakeScorers(reward_of),
        num_samples=3,
        keep_groups=True,
        rollouts_per_step=6,
        max_staleness=1,
        dynamic_sampling=True,
    )
    trained: list[int] = []
    dropped: list[DroppedRollout] = []
    for version in range(1, 7):
        step = loop.next_step()
        trained += ids(step.trainable)
        dropped += step.dropped
        before = loop.state_dict()
        loop.pump()
        generators.version = version
        if version == 5:
            generators.slow.clear()
        loop.release(version)
        metrics, state = loop.metrics(), loop.state_dict()
        assert metrics["rollout/trained_total"] == len(trained)
        assert metrics["rollout/dropped_total"] == len(dropped)
        assert metrics["rollout/in_flight"] == len(state["in_flight"])
        assert metrics["rollout/dispatched_total"] == state["next_request_id"]
        # Until it is over a step's requests are all there, those left out of it too.
        closing = {*ids(step.trainable), *(item.request_id for item in step.dropped)}
        assert closing <= {request["request_id"] for request in before["in_flight"]}
        assert closing.isdisjoint(request["request_id"] for request in state["in_flight"])
    assert len(set(trained)) == len(trained)
    assert set(trained).isdisjoint(item.request_id for item in dropped)
    by_reason = Counter(item.reason for item in dropped)
    assert set(by_reason) == {"stale", "zero_variance", "unscored"}
    assert sorted(item.request_id for item in dropped if item.reason == "stale") == [6, 7, 8]
    for reason, count in by_reason.items():
        assert loop.metrics()[f"rollout/dropped_{reason}_total"] == count


def test_the_account_goes_on_over_a_resume_and_counts_what_is_issued_again_once() -> None:
    loop = make_loop(FakeGenerators(slow=[5]), max_staleness=1)
    loop.next_step()
    loop.release(1)
    loop.pump()
    resumed = make_loop(FakeGenerators(), max_staleness=1, version=1)
    resumed.load_state_dict(json.loads(json.dumps(loop.state_dict())), redraw=redraw)
    assert resumed.account == loop.account == "12 dispatched = 4 trained + 0 dropped + 8 in flight"
    resumed.next_step()
    resumed.release(2)
    assert resumed.account == "12 dispatched = 8 trained + 0 dropped + 4 in flight"


def test_a_checkpoint_without_a_ledger_begins_one_with_its_requests() -> None:
    loop = make_loop(FakeGenerators(slow=range(4)))
    loop.pump()
    state = {name: value for name, value in loop.state_dict().items() if name != "ledger"}
    resumed = make_loop(FakeGenerators())
    resumed.load_state_dict(state, redraw=redraw)
    assert resumed.account == "4 dispatched = 0 trained + 0 dropped + 4 in flight"


def test_what_a_step_leaves_out_itself_is_dropped_under_its_first_reason() -> None:
    loop = make_loop(FakeGenerators(), FakeScorers(lambda request: None if request.request_id == 2 else 1.0))
    loop.next_step()
    loop.leave_out([1, 2], "masked")
    loop.leave_out([0, 1], "skipped")
    loop.release(0)
    assert loop.account == ("4 dispatched = 1 trained + 3 dropped (1 unscored, 1 masked, 1 skipped) + 0 in flight")


def test_a_ledger_that_does_not_agree_with_the_requests_ends_the_run() -> None:
    loop = make_loop(FakeGenerators(slow=range(4)))
    loop.pump()
    state = loop.state_dict()
    state["ledger"] |= {"trained": 2, "dropped": {"stale": 1}}
    numbers = r"4 dispatched ≠ 2 trained \+ 1 dropped \(1 stale\) \+ 4 in flight"
    with pytest.raises(RunError, match=f"do not add up: {numbers}"):
        make_loop(FakeGenerators()).load_state_dict(state, redraw=redraw)


def test_a_request_that_the_generators_lost_ends_the_run() -> None:
    generators = FakeGenerators(slow=[4])
    loop = make_loop(generators, max_staleness=1)
    loop.next_step()
    loop.pump()
    del generators.waiting[:]
    numbers = "1 of training are on the way and 1 known here; of the generators 1 are expected and 0 held there"
    with pytest.raises(RunError, match=numbers):
        loop.release(1)


def test_an_answer_that_comes_twice_ends_the_run() -> None:
    generators = FakeGenerators(slow=[3])
    loop = make_loop(generators)
    loop.pump()
    generators.waiting.append(generators.seen[1])
    with pytest.raises(RunError, match="the generators answered request 1 twice, or without being asked"):
        loop.pump()


def test_a_draw_that_fails_loses_none_of_those_before_it() -> None:
    def failing() -> Iterator[DrawnPrompt]:
        yield drawn(0)
        yield drawn(1)
        raise DataError("line 3: the prompt has 2,000 tokens")

    loop = make_loop(FakeGenerators(), prompts=failing())
    with pytest.raises(DataError):
        loop.next_step()
    assert saved_ids(loop) == [0, 1]


def test_groups_are_issued_again_whole_also_by_a_run_with_less_room() -> None:
    """Two groups of three are saved; with room for four, one and a third would have been waited for in vain."""
    loop = make_loop(FakeGenerators(slow=range(6)), num_samples=3, rollouts_per_step=3, max_staleness=1)
    loop.pump()
    state = loop.state_dict()
    resumed = make_loop(FakeGenerators(), num_samples=3, keep_groups=True)
    resumed.load_state_dict(state, redraw=redraw)
    assert ids(resumed.next_step().trainable) == [0, 1, 2, 3, 4, 5]


def test_a_group_let_go_in_part_is_whole_with_the_rest() -> None:
    """A run that does not compare completions of a prompt may be resumed as one that does."""
    loop = make_loop(FakeGenerators(slow=[2]), num_samples=3, max_staleness=1)
    loop.next_step()
    loop.release(1)
    state = loop.state_dict()
    assert state["in_flight"][0]["request_id"] == 2
    resumed = make_loop(FakeGenerators(), num_samples=3, keep_groups=True, max_staleness=1, version=1)
    resumed.load_state_dict(state, redraw=redraw)
    assert 2 in ids(resumed.next_step().trainable)
