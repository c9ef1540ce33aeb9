"""What a pool does when generators fail, start late, or go: with stand-ins, in a time of their own."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
from support.fake_pool import answers, collect, make_pool, pass_time, ready_pool, requests, texts, update
from support.fake_ray import NEVER, FakeRay, Plan

from bolt_ray.core.errors import ModelError, RunError, StallError, WeightSyncError
from bolt_ray.core.records import UnscoredCompletion
from bolt_ray.engines.vllm.weights import CorruptedEngineError

# A sync


def test_the_only_generator_may_die_before_a_sync_and_its_replacement_is_synced() -> None:
    ray = FakeRay(Plan(lives_s=10.0))
    pool = ready_pool(ray)
    pool.submit(requests(3))
    collect(pool)
    ray.clock = ray.made[0].dies_at
    scores = update(pool, 1)
    assert [values.tolist() for values in scores[0]] == [[-1.0, -1.0]]
    assert len(scores) == 1
    assert pool.version == 1
    assert [made.version for made in ray.made] == [0, 1]
    pool.submit(requests(2, start=3))
    assert {each.newest_version for each in collect(pool)} == {1}


def test_a_sync_without_any_generator_waits_no_longer_than_a_start_may_take() -> None:
    ray = FakeRay(Plan(lives_s=10.0), Plan(placed_s=NEVER))
    pool = ready_pool(ray)
    ray.clock += 10.0
    began = ray.clock
    with pytest.raises(StallError, match=r"no place for it, which asks for 1 CPUs .* the last one failed: .* died"):
        update(pool, 1)
    assert 100.0 <= ray.clock - began <= 103.0


def test_weights_that_the_only_replacement_refuses_end_the_sync() -> None:
    class Refusing(FakeRay):
        def actor(self, name: str):  # type: ignore[no-untyped-def]
            made = super().actor(name)
            if len(self.made) > 1:
                made.plan = replace(made.plan, update_s=1.0)

                def refuse(probes: object) -> list[object]:
                    raise WeightSyncError("other weights")

                made._scores = refuse  # type: ignore[method-assign]
            return made

    ray = Refusing(Plan(lives_s=10.0))
    pool = ready_pool(ray)
    ray.clock += 10.0
    with pytest.raises(WeightSyncError, match="other weights"):
        update(pool, 1)
    assert pool.version == 0


def test_a_late_joiner_whose_log_probs_differ_gets_no_request() -> None:
    ray = FakeRay(Plan(), Plan(lives_s=20.0), Plan(off=3.0), Plan())
    pool = ready_pool(ray, num_generators=2)
    update(pool, 1)
    ray.clock += 30.0
    pool.submit(requests(4))
    collect(pool)
    pass_time(pool, ray, 150.0)
    assert pool.num_live == 2
    assert "off by 3.0" in pool.replacements[1]
    assert ray.made[2].seen == []
    assert [made.version for made in ray.made[2:]] == [1, 1]
    pool.submit(requests(16, start=4))
    collect(pool)
    assert ray.made[3].seen


# Starts


def test_the_first_start_that_fails_is_the_users_error() -> None:
    ray = FakeRay(Plan(error=ModelError("no such model")))
    with pytest.raises(ModelError, match="no such model"):
        ready_pool(ray)


def test_a_replacement_that_fails_to_start_is_tried_again_ever_later() -> None:
    full = Plan(error=ModelError("free memory on device is less than desired"))
    ray = FakeRay(Plan(), Plan(lives_s=10.0), *[full] * 6, Plan())
    pool = ready_pool(ray, num_generators=2)
    pool.submit(requests(400))
    assert texts(collect(pool)) == answers(400)
    pass_time(pool, ray, 150.0)
    assert pool.num_live == 2
    launched = [made.born for made in ray.made[2:]]
    pauses = [round(later - earlier - 5.0) for earlier, later in itertools.pairwise(launched)]
    assert pauses[:4] == [2, 4, 8, 16]
    assert len(pool.replacements) == 7
    assert len(ray.made) == 9


def test_without_any_other_generator_failed_starts_end_the_run_with_their_reason() -> None:
    full = Plan(error=ModelError("free memory on device is less than desired"))
    ray = FakeRay(Plan(lives_s=10.0), *[full] * 6)
    pool = ready_pool(ray)
    pool.submit(requests(40))
    with pytest.raises(
        RunError, match=r"3 generators had to be replaced, more than the 2 allowed within .*free memory"
    ):
        collect(pool)


def test_a_start_that_hangs_beside_others_is_given_up_in_time() -> None:
    ray = FakeRay(Plan(), Plan(start_s=NEVER), Plan())
    pool = make_pool(ray, num_generators=2, start_after_s=500.0)
    pool.wait_ready()
    assert len(ray.made) == 3
    assert pool.replacements[0].startswith("still starting its engine after 10")


def test_a_run_starts_with_what_is_there_and_says_so() -> None:
    ray = FakeRay(Plan(), Plan(), Plan(placed_s=300.0))
    pool = make_pool(ray, num_generators=3, min_generators=2, start_after_s=60.0)
    said: list[str] = []
    began = ray.clock
    pool.wait_ready(say=said.append)
    assert 60.0 <= ray.clock - began <= 62.0
    assert said == [
        "Starting with 2 of 3 generators after 60 s (cluster.start_after_s); the others join when they are up"
    ]
    pool.submit(requests(1000))
    assert texts(collect(pool)) == answers(1000)
    assert ray.made[2].seen == []
    ray.clock += 300.0
    pass_time(pool, ray, 20.0)
    assert pool.num_live == 3


def test_too_few_generators_are_an_error_that_names_the_setting() -> None:
    ray = FakeRay(Plan(), Plan(placed_s=NEVER), Plan(placed_s=NEVER))
    pool = make_pool(ray, num_generators=3, min_generators=2, start_after_s=60.0)
    with pytest.raises(StallError, match=r"1 of 3 generators are up after 10\d s .* cluster.min_generators is 2"):
        pool.wait_ready()


# Losses


def test_losses_are_counted_within_a_window_of_time() -> None:
    ray = FakeRay(*[Plan(lives_s=100.0)] * 20)
    pool = ready_pool(ray, failure_window_s=150.0)
    pool.submit(requests(3000))
    assert texts(collect(pool)) == answers(3000)
    assert len(pool.replacements) > 3


def test_a_request_that_ends_two_generators_is_given_up_with_the_reason() -> None:
    poisoned = Plan(poisons=frozenset({5}))
    ray = FakeRay(*[poisoned] * 10)
    pool = ready_pool(ray, max_generator_replacements=8)
    pool.submit(requests(1, start=5))
    (given_up,) = collect(pool)
    assert isinstance(given_up, UnscoredCompletion)
    assert given_up.request_id == 5
    assert len(given_up.token_ids) == 0
    assert (given_up.reason.reward, given_up.reason.kind) == ("generator", "lost")
    assert given_up.reason.detail.startswith(
        "2 generators were lost over it; the last: RayActorError: generator-1 died"
    )
    assert len(pool.replacements) == 2


def test_among_many_the_one_that_ends_generators_is_found_and_the_others_are_answered() -> None:
    poisoned = Plan(poisons=frozenset({17}))
    ray = FakeRay(*[poisoned] * 20)
    pool = ready_pool(ray, num_generators=2, max_generator_replacements=8)
    pool.submit(requests(40))
    done = collect(pool)
    assert texts(done) == [(n, "" if n == 17 else text) for n, text in answers(40)]
    assert [each.request_id for each in done if isinstance(each, UnscoredCompletion)] == [17]
    assert len(pool.replacements) <= 5


def test_two_generators_killed_from_outside_cost_no_request() -> None:
    ray = FakeRay(Plan(lives_s=6.0), Plan(lives_s=6.5))
    pool = ready_pool(ray, max_generator_replacements=8)
    pool.submit(requests(8))
    assert texts(collect(pool)) == answers(8)


def test_a_generator_without_a_token_within_its_deadline_is_replaced() -> None:
    ray = FakeRay(Plan(request_s=NEVER))
    pool = ready_pool(ray)
    pool.submit(requests(3))
    assert texts(collect(pool)) == answers(3)
    assert pool.replacements[0].startswith("no token for 5")
    assert ray.shown == [f"generator-0: {pool.replacements[0]}"]


# Going back


def test_a_reset_forgets_requests_answers_and_weights() -> None:
    ray = FakeRay(Plan(request_s=1.0), Plan(request_s=30.0))
    pool = ready_pool(ray, num_generators=2)
    update(pool, 4)
    pool.submit(requests(16))
    pool.poll(1.5)
    pool.reset(2)
    assert pool.outstanding == 0
    assert pool.version == 2
    assert ray.made[1].aborted == 8
    # The same ids are asked for again, and answered by the new weights only.
    pool.submit(requests(16))
    assert pool.poll(3.0) == []
    update(pool, 2)
    done = collect(pool)
    assert texts(done) == answers(16)
    assert {(each.oldest_version, each.newest_version) for each in done} == {(2, 2)}


def test_an_answer_to_what_a_reset_took_back_is_not_taken_for_the_new_one() -> None:
    ray = FakeRay(Plan(request_s=3.0))
    pool = ready_pool(ray)
    ray.made[0].abort.remote = lambda tickets: None  # type: ignore[attr-defined]
    pool.submit(requests(1))
    pool.poll(1.0)
    pool.reset(0)
    pool.submit([replace(requests(1)[0], seed=7)])
    (done,) = collect(pool)
    assert done.text == "0:7:4"


# Machines that go


def test_a_draining_generator_finishes_and_goes_without_being_counted() -> None:
    going: dict[str, int] = {}
    ray = FakeRay(Plan(node="a"), Plan(node="b"), Plan(node="c"))
    pool = make_pool(ray, draining=going, num_generators=2, max_generator_replacements=0)
    pool.wait_ready()
    pool.submit(requests(8))
    pool.poll(0.5)
    going["a"] = 0
    ray.clock += 1.0
    done = pool.poll(0.0)
    pool.submit(requests(40, start=8))
    done += collect(pool)
    assert texts(done) == answers(48)
    assert pool.replacements == ()
    assert ray.killed == ["generator-0"]
    assert len(ray.made[0].seen) == 4
    assert pool.num_live == 2


def test_what_a_draining_generator_has_not_finished_in_time_goes_elsewhere() -> None:
    going: dict[str, int] = {}
    ray = FakeRay(Plan(node="a", request_s=500.0), Plan(node="b"), Plan(node="c"))
    pool = make_pool(ray, draining=going, num_generators=2, max_generator_replacements=0)
    pool.wait_ready()
    pool.submit(requests(8))
    pool.poll(0.5)
    going["a"] = 0
    ray.clock += 2.0
    began = ray.clock
    assert texts(collect(pool)) == answers(8)
    assert 30.0 <= ray.clock - began <= 36.0
    assert pool.replacements == ()


def test_a_machine_that_goes_at_once_leaves_no_time_to_finish() -> None:
    soon = {"a": int((time.time() + 5.0) * 1000)}
    going: dict[str, int] = {}
    ray = FakeRay(Plan(node="a", request_s=500.0), Plan(node="b"))
    pool = make_pool(ray, draining=going, max_generator_replacements=0)
    pool.wait_ready()
    pool.submit(requests(8))
    pool.poll(0.5)
    going |= soon
    ray.clock += 2.0
    assert pool.poll(0.0) == []
    assert ray.killed == ["generator-0"]
    assert texts(collect(pool)) == answers(8)


def test_a_corrupted_engine_is_replaced() -> None:
    ray = FakeRay(Plan(), Plan())
    pool = ready_pool(ray, num_generators=2)

    def corrupted(probes: object) -> list[object]:
        raise CorruptedEngineError("failed half way")

    ray.made[1]._scores = corrupted  # type: ignore[method-assign]
    assert len(update(pool, 1)) == 1
    assert pool.replacements == ("CorruptedEngineError: failed half way",)
