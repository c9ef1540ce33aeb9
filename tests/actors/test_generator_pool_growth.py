"""Generators that join and go, and how requests move between them: with stand-ins, in a time of their own."""

from __future__ import annotations

from support.fake_pool import answers, collect, make_pool, pass_time, ready_pool, requests, texts, update
from support.fake_ray import NEVER, FakeRay, Plan

from bolt_ray.core.errors import ModelError


def test_generators_join_where_room_is_found_and_at_the_current_version() -> None:
    ray = FakeRay()
    pool = ready_pool(ray, max_generators=3)
    assert ray.rooms == []
    update(pool, 1)
    pool.submit(requests(400))
    done = pool.poll(2.5)
    assert [room.released for room in ray.rooms] == [False, False]
    assert len(ray.made) == 1
    ray.rooms[1].there = True
    for _ in range(10):
        done += pool.poll(1.0)
    update(pool, 2)
    assert pool.metrics() == {
        "cluster/generators_live": 2.0,
        "cluster/generators_wanted": 3.0,
        "cluster/nodes_draining": 0.0,
    }
    done += collect(pool)
    assert texts(done) == answers(400)
    assert [room.released for room in ray.rooms] == [False, True]
    assert [made.version for made in ray.made] == [2, 2]
    assert len(ray.made[1].seen) > 50


def test_a_generator_whose_room_was_taken_is_not_left_waiting_for_another() -> None:
    ray = FakeRay(Plan(), Plan(placed_s=NEVER))
    pool = ready_pool(ray, max_generators=2)
    pool.submit(requests(1000))
    pool.poll(1.5)
    ray.rooms[0].there = True
    done = collect(pool)
    assert ray.killed == ["generator-1"]
    assert [room.there for room in ray.rooms] == [True, False]
    assert pool.replacements == ()
    assert texts(done) == answers(1000)


def test_a_joiner_that_is_lost_comes_back_by_room_that_is_found_only() -> None:
    ray = FakeRay(Plan(), Plan(lives_s=20.0))
    pool = ready_pool(ray, max_generators=2)
    pool.submit(requests(200))
    pool.poll(0.5)
    ray.rooms[0].there = True
    collect(pool)
    assert len(pool.replacements) == 1
    assert len(ray.made) == 2
    assert len(ray.rooms) == 2


def test_a_joiner_that_cannot_start_is_tried_again_ever_later() -> None:
    full = Plan(error=ModelError("free memory on device is less than desired"))
    ray = FakeRay(Plan(), *[full] * 50)
    pool = ready_pool(ray, max_generators=2)
    pool.submit(requests(1000))
    began = ray.clock
    for _ in range(100):
        pool.poll(1.0)
        for room in ray.rooms:
            room.there = True
    assert 90.0 < ray.clock - began < 110.0
    assert 4 <= len(pool.replacements) <= 6


def test_a_reset_gives_back_the_room_of_those_that_joined() -> None:
    ray = FakeRay()
    pool = ready_pool(ray, max_generators=3)
    pool.submit(requests(100))
    pool.poll(0.5)
    ray.rooms[0].there = True
    pass_time(pool, ray, 10.0)
    assert pool.num_live == 2
    pool.reset(0)
    assert pool.num_live == 1
    assert all(room.released for room in ray.rooms)
    # Nothing is asked for before there is work again: until then the learner may still need its place.
    rooms = len(ray.rooms)
    pass_time(pool, ray, 10.0)
    assert len(ray.rooms) == rooms
    pool.submit(requests(1))
    collect(pool)
    assert len(ray.rooms) == rooms + 2


def test_a_closed_pool_asks_for_nothing() -> None:
    ray = FakeRay()
    pool = ready_pool(ray, num_generators=2, max_generators=3)
    pool.submit(requests(1))
    pool.poll(0.5)
    pool.close()
    assert sorted(ray.killed) == ["generator-0", "generator-1"]
    assert all(room.released for room in ray.rooms)


def test_a_generator_holds_no_more_than_it_can_work_on() -> None:
    ray = FakeRay(Plan(request_s=1.0), Plan(request_s=9.0))
    pool = ready_pool(ray, num_generators=2)
    pool.submit(requests(100))
    assert texts(collect(pool)) == answers(100)
    # Eight at a time, and two that wait in the engine.
    assert [made.most for made in ray.made] == [10, 10]
    assert len(ray.made[0].seen) >= 80


def test_what_a_slow_generator_has_goes_to_one_that_has_nothing_to_do() -> None:
    ray = FakeRay(Plan(request_s=25.0, tokens_s=10.0), Plan(request_s=4000.0, tokens_s=0.1))
    pool = ready_pool(ray, num_generators=2)
    pool.submit(requests(20))
    began = ray.clock
    assert texts(collect(pool)) == answers(20)
    assert ray.clock - began < 2 * 25.0 + 10.0
    assert ray.made[1].aborted == 10
    assert pool.replacements == ()


def test_nothing_is_taken_from_a_generator_that_is_only_busy() -> None:
    ray = FakeRay(Plan(request_s=25.0, tokens_s=10.0), Plan(request_s=200.0, tokens_s=4.0))
    pool = ready_pool(ray, num_generators=2)
    pool.submit(requests(20))
    assert texts(collect(pool)) == answers(20)
    assert [made.aborted for made in ray.made] == [0, 0]


def test_answers_do_not_depend_on_which_generator_gives_them() -> None:
    few, many = FakeRay(), FakeRay(*[Plan(request_s=1.0 + n) for n in range(5)])
    alone, together = ready_pool(few), ready_pool(many, num_generators=5)
    for pool in (alone, together):
        pool.submit(requests(60))
    assert texts(collect(alone)) == texts(collect(together)) == answers(60)


def test_a_starting_generator_on_a_machine_that_goes_starts_elsewhere() -> None:
    going: dict[str, int] = {}
    ray = FakeRay(Plan(node="a"), Plan(node="b", start_s=50.0), Plan(node="c"))
    pool = make_pool(ray, draining=going, num_generators=2, max_generator_replacements=0, start_after_s=10.0)
    pool.wait_ready(say=lambda text: None)
    going["b"] = 0
    pass_time(pool, ray, 15.0)
    assert ray.killed == ["generator-1"]
    assert pool.num_live == 2
    assert pool.replacements == ()


def test_a_draining_generator_that_dies_early_costs_nothing() -> None:
    going: dict[str, int] = {}
    ray = FakeRay(Plan(node="a", request_s=20.0, lives_s=12.0), Plan(node="b"))
    pool = make_pool(ray, draining=going, max_generator_replacements=0)
    pool.wait_ready()
    pool.submit(requests(8))
    pool.poll(0.5)
    going["a"] = 0
    ray.clock += 2.0
    assert texts(collect(pool)) == answers(8)
    assert pool.replacements == ()
