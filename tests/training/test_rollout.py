"""The rollout loop with fakes of the generator and scorer pools: one step, staleness, groups, refills, ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from support.fakes import FakeGenerators, FakeScorers

from bolt_ray.core.errors import StallError
from bolt_ray.core.records import (
    DrawnPrompt,
    Prompt,
    ScoredCompletion,
    UnscoredCompletion,
)
from bolt_ray.training.completions import CompletionService, request_seed
from bolt_ray.training.rollout import RolloutLoop


class FakeBaseline:
    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []

    def read(self, keys: Sequence[str], version: int) -> tuple[np.ndarray, np.ndarray]:
        self.reads.append((len(keys), version))
        return np.full(len(keys), 0.25), np.full(len(keys), 8.0)


def prompts(num_samples: int = 1) -> Iterator[DrawnPrompt]:
    draw_id = 0
    while True:
        prompt = Prompt(row=draw_id, key=f"key-{draw_id}", prompt=f"p{draw_id}")
        yield DrawnPrompt(
            draw_id=draw_id, prompt=prompt, token_ids=np.array([5], dtype=np.int32), num_samples=num_samples
        )
        draw_id += 1


def make_loop(
    generators: FakeGenerators, scorers: FakeScorers, *, num_samples: int = 1, **settings: object
) -> RolloutLoop:
    defaults: dict[str, object] = {
        "rollouts_per_step": 4,
        "max_staleness": 0,
        "keep_groups": False,
        "dynamic_sampling_rounds": 0,
        "seed": 7,
        "stall_s": 0.2,
    }
    return RolloutLoop(
        service=CompletionService(generators=generators, scorers=scorers),
        prompts=prompts(num_samples),
        baseline=FakeBaseline(),
        **(defaults | settings),  # type: ignore[arg-type]
    )


def ids(items: Sequence[ScoredCompletion | UnscoredCompletion]) -> list[int]:
    return [item.completion.request.request_id for item in items]


def test_on_policy_dispatches_exactly_one_step_and_waits_for_the_release() -> None:
    generators = FakeGenerators()
    loop = make_loop(generators, FakeScorers())
    first = loop.next_step()
    assert ids(first.trainable) == [0, 1, 2, 3]
    assert [item.completion.request.v_hat for item in first.trainable] == [0.25] * 4
    loop.pump()
    assert len(generators.seen) == 4, "nothing may be generated before the next version"
    generators.version = 1
    loop.release(1)
    second = loop.next_step()
    assert ids(second.trainable) == [4, 5, 6, 7]
    assert {item.completion.oldest_version for item in second.trainable} == {1}


def test_staleness_one_generates_the_next_step_while_this_one_trains() -> None:
    generators = FakeGenerators()
    loop = make_loop(generators, FakeScorers(), max_staleness=1)
    assert ids(loop.next_step().trainable) == [0, 1, 2, 3]
    loop.pump()
    assert len(generators.seen) == 8
    generators.version = 1
    loop.release(1)
    second = loop.next_step()
    assert ids(second.trainable) == [4, 5, 6, 7]
    assert {loop.version - item.completion.oldest_version for item in second.trainable} == {1}
    loop.pump()
    assert [request.policy_version for request in generators.seen[8:]] == [1] * 4


def test_a_straggler_is_carried_over_and_dropped_only_when_too_old() -> None:
    generators = FakeGenerators(slow=[1])
    loop = make_loop(generators, FakeScorers(), max_staleness=1)
    assert ids(loop.next_step().trainable) == [0, 2, 3, 4]
    loop.release(1)
    assert 1 not in ids(loop.next_step().trainable)
    loop.release(2)
    generators.slow.clear()
    third = loop.next_step()
    assert [(item.request.request_id, item.reason) for item in third.dropped] == [(1, "stale")]
    assert ids(third.evidence_only) == [1]
    assert len(third.trainable) == 4


def test_unscored_completions_fill_the_step_and_are_not_trained() -> None:
    loop = make_loop(FakeGenerators(), FakeScorers(lambda request: None if request.request_id == 2 else 1.0))
    step = loop.next_step()
    assert ids(step.trainable) == [0, 1, 3]
    assert ids(step.unscored) == [2]
    assert [(item.request.request_id, item.reason) for item in step.dropped] == [(2, "unscored")]


def test_groups_are_kept_whole() -> None:
    generators = FakeGenerators(slow=[1])
    loop = make_loop(generators, FakeScorers(), num_samples=2, keep_groups=True, max_staleness=1)
    first = loop.next_step()
    assert ids(first.trainable) == [2, 3, 4, 5]


def test_dynamic_sampling_refills_groups_without_variance() -> None:
    rewards = {0: 1.0, 1: 1.0, 2: 1.0, 3: 0.0, 4: 0.0, 5: 1.0}
    scorers = FakeScorers(lambda request: rewards.get(request.request_id, 1.0))
    loop = make_loop(FakeGenerators(), scorers, num_samples=2, keep_groups=True, dynamic_sampling_rounds=1)
    step = loop.next_step()
    assert ids(step.trainable) == [2, 3, 4, 5]
    assert step.refilled == 2
    assert ids(step.evidence_only) == [0, 1]
    loop.release(1)
    assert loop.state_dict()["ledger"] == []


def test_dynamic_sampling_gives_up_after_its_rounds() -> None:
    loop = make_loop(FakeGenerators(), FakeScorers(), num_samples=2, keep_groups=True, dynamic_sampling_rounds=2)
    step = loop.next_step()
    assert step.refilled == 8
    assert len(step.trainable) == 4


def test_nothing_arriving_is_a_stall_that_says_what_is_missing() -> None:
    loop = make_loop(FakeGenerators(slow=range(4)), FakeScorers())
    with pytest.raises(StallError, match="4 are being generated, 0 scored, 0 of 4 are ready"):
        loop.next_step()


def test_resume_issues_the_ledger_again_before_new_draws() -> None:
    generators = FakeGenerators(slow=[5])
    loop = make_loop(generators, FakeScorers(), max_staleness=1)
    loop.next_step()
    loop.pump()
    loop.release(1)
    state = loop.state_dict()
    assert [entry[0] for entry in state["ledger"]] == [4, 5, 6, 7]

    again = FakeGenerators()
    resumed = make_loop(again, FakeScorers(), max_staleness=1, version=1)
    drawn = dict(enumerate(next(prompts()) for _ in range(1)))
    resumed.load_state_dict(
        state,
        redraw=lambda entries: [
            DrawnPrompt(draw_id=e.draw_id, prompt=drawn[0].prompt, token_ids=drawn[0].token_ids) for e in entries
        ],
    )
    assert ids(resumed.next_step().trainable) == [4, 5, 6, 7]
    assert [request.seed for request in again.seen[:4]] == [request_seed(7, i) for i in (4, 5, 6, 7)]
    assert again.seen[4].request_id == 8


def test_an_interrupt_while_waiting_loses_nothing() -> None:
    class Stop(Exception):  # noqa: N818
        pass

    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Stop

    loop = make_loop(FakeGenerators(slow=[3]), FakeScorers(), check=check, stall_s=60.0)
    with pytest.raises(Stop):
        loop.next_step()
    assert [entry[0] for entry in loop.state_dict()["ledger"]] == [0, 1, 2, 3]


def test_request_seeds_are_fixed() -> None:
    assert [request_seed(0, i) for i in range(3)] == [request_seed(0, i) for i in range(3)]
    assert len({request_seed(0, i) for i in range(1000)}) == 1000
    assert request_seed(0, 1) != request_seed(1, 1)
