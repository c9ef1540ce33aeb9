"""Scorers that come and go, without Ray: who works, who is tried again when, and what becomes of the completions."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from support.scorers import ONE, FakeScorerActors

from bolt_ray.actors.cluster_watch import ClusterWatch
from bolt_ray.actors.scorer_actor import ScoringRequest
from bolt_ray.actors.scorer_pool import ScorerPool
from bolt_ray.actors.scorer_seats import CROWDED_S, MAX_FAILED_STARTS, SPARE_S, ScorerSeats
from bolt_ray.actors.settings import ScoringSettings
from bolt_ray.core.errors import ConfigError, EnvironmentProblem, StallError
from bolt_ray.core.records import UnscoredReason
from bolt_ray.core.settings import SettingError
from bolt_ray.rewards.protocol import RewardInput

ROOM_S = 600.0
WINDOW_S = 3600.0


class Scoring:
    """A pool over actors in memory.

    Attributes:
        draining: nodes that are about to go.
    """

    def __init__(self, *, batch_size: int = 2, deadline_s: float = 50.0, room: dict[str, int], **settings: Any) -> None:
        self.actors = FakeScorerActors(**room)
        self.draining: dict[str, int] = {}
        self.done: dict[int, Any] = {}
        self.seats = ScorerSeats(
            settings=ScoringSettings(startup_timeout_s=10.0, **settings),
            batch_deadline_s=deadline_s,
            room_s=ROOM_S,
            failure_window_s=WINDOW_S,
            actors=self.actors,
            watch=ClusterWatch(lambda: self.draining, now=self.actors.now),
            now=self.actors.now,
        )
        self.pool = ScorerPool(seats=self.seats, batch_size=batch_size, now=self.actors.now)

    def started(self) -> Scoring:
        self.seats.launch()
        self.seats.wait_ready()
        return self

    def submit(self, *texts: str) -> None:
        self.pool.submit(
            [
                ScoringRequest(request_id=number, input=RewardInput(prompt="", completion=text))
                for number, text in enumerate(texts)
            ]
        )

    def pass_time(self, seconds: float) -> None:
        """Poll as the loop does while there is nothing to score."""
        end = self.actors.time + seconds
        while self.actors.time < end:
            self.done |= {each.request_id: each.result for each in self.pool.poll()}
            self.actors.time += 1.0

    def scored(self, *texts: str) -> dict[int, Any]:
        """What comes of some completions, each by its number."""
        self.submit(*texts)
        return self.drained()

    def drained(self) -> dict[int, Any]:
        while self.pool.num_pending:
            for each in self.pool.poll(timeout_s=100.0):
                assert each.request_id not in self.done
                self.done[each.request_id] = each.result
        done, self.done = self.done, {}
        return done

    @property
    def at_work(self) -> list[str]:
        """The nodes on which scorers are."""
        return sorted(str(actor.node) for actor in self.actors.living)


def test_a_scorer_that_finds_no_room_leaves_the_others_at_work_and_joins_when_there_is_some() -> None:
    scoring = Scoring(num_scorers=4, room={"a": 1, "b": 3}).started()
    scoring.actors.lose("b")
    assert scoring.scored(*"abcdefgh") == dict.fromkeys(range(8), ONE)
    scoring.pass_time(10 * ROOM_S)
    assert scoring.scored(*"abcd") == dict.fromkeys(range(4), ONE)
    assert scoring.at_work == ["a"]
    scoring.actors.room["c"] = 2
    scoring.pass_time(5.0)
    assert scoring.at_work == ["a", "c", "c"]
    assert len(scoring.actors.launched) == 4 + 3, "waiting for room costs no further try"


def test_a_run_starts_with_as_many_as_it_must_have() -> None:
    scoring = Scoring(num_scorers=3, min_scorers=1, room={"a": 1}).started()
    assert scoring.at_work == ["a"] and scoring.actors.time == 0.0
    scoring.actors.room["b"] = 9
    scoring.pass_time(2.0)
    assert scoring.at_work == ["a", "b", "b"]
    with pytest.raises(SettingError, match="min_scorers 3 is above num_scorers 2"):
        ScoringSettings(num_scorers=2, min_scorers=3)


def test_a_start_without_room_waits_for_nodes_and_then_says_what_is_missing() -> None:
    scoring = Scoring(num_scorers=2, cpus_per_scorer=8.0, room={"a": 1})
    problem = (
        r"^after 600 s \(deadlines.startup_s\) 1 of 2 scorers are there, 1 wait for a node with 8 CPU and 0 GPU "
        r"\(0 CPU and 0 GPU are free in all\); add nodes"
    )
    with pytest.raises(EnvironmentProblem, match=problem):
        scoring.started()
    assert ROOM_S <= scoring.actors.time < ROOM_S + 2


def test_all_scorers_lost_and_no_room_ends_the_run_after_a_while() -> None:
    scoring = Scoring(num_scorers=2, room={"a": 2}).started()
    scoring.actors.lose("a")
    with pytest.raises(StallError, match=r"^for 600 s .* 0 of 2 scorers are there, 2 wait for a node"):
        scoring.scored(*"ab")
    assert scoring.actors.time >= ROOM_S


def test_failed_starts_are_tried_again_ever_later_and_the_others_work() -> None:
    scoring = Scoring(num_scorers=2, room={"a": 1, "b": 1}).started()
    scoring.actors.broken = ConfigError("rewards: no module on this node")
    scoring.actors.lose("b")
    scoring.actors.room["c"] = 1
    assert scoring.scored(*"abcd") == dict.fromkeys(range(4), ONE)
    scoring.pass_time(250.0)
    tries = [actor.launched for actor in scoring.actors.launched[2:]]
    waits = [later - earlier for earlier, later in itertools.pairwise(tries)]
    for waited, wanted in zip(waits, [1, 2, 4, 8, 16, 32, 60, 60], strict=True):
        assert wanted <= waited <= wanted + 4  # to be placed and to fail takes some looks
    assert scoring.scored(*"ab") == dict.fromkeys(range(2), ONE)
    scoring.actors.broken = None
    scoring.pass_time(61.0)
    assert scoring.at_work == ["a", "c"]


def test_no_scorer_that_can_be_started_ends_the_run_with_the_reason() -> None:
    scoring = Scoring(num_scorers=2, room={"a": 2}).started()
    scoring.actors.broken = ConfigError("rewards: own cannot be built: the disk is gone")
    for actor in scoring.actors.living:
        actor.alive = False
    with pytest.raises(StallError, match=r"each failed to start more than 5 times .*; the last: rewards: own cannot"):
        scoring.scored(*"abcd")
    assert len(scoring.actors.launched) == 2 + 2 * (MAX_FAILED_STARTS + 1)


def test_a_reward_that_cannot_be_built_at_the_start_is_the_users() -> None:
    scoring = Scoring(num_scorers=2, room={"a": 2})
    scoring.actors.broken = ConfigError("rewards: own cannot be built")
    with pytest.raises(ConfigError, match="own cannot be built"):
        scoring.started()
    assert len(scoring.actors.launched) == 2


def test_scorers_that_died_with_nothing_to_do_cost_no_completion_its_second_chance() -> None:
    scoring = Scoring(num_scorers=3, room={"a": 3, "b": 9}).started()
    scoring.actors.lose("a")
    assert scoring.scored(*"ab") == dict.fromkeys(range(2), ONE), "handed to one after the other"
    assert scoring.pool.restarts == 3


def test_a_completion_that_kills_its_scorer_twice_is_unscored_alone() -> None:
    scoring = Scoring(num_scorers=2, batch_size=4, room={"a": 9}).started()
    scoring.actors.deadly = "x"
    lost = UnscoredReason(reward="scorer", kind="lost", detail="died, twice")
    assert scoring.scored(*"axb") == {0: ONE, 1: lost, 2: ONE}


def test_a_stuck_scorer_is_replaced_at_its_deadline() -> None:
    scoring = Scoring(num_scorers=1, room={"a": 1}).started()
    (stuck,) = scoring.actors.living
    stuck.held = True
    assert scoring.scored(*"ab") == dict.fromkeys(range(2), ONE)
    assert not stuck.alive and scoring.actors.time == 50.0


def test_a_draining_node_is_left_by_an_idle_scorer_once_another_works() -> None:
    scoring = Scoring(num_scorers=1, room={"a": 1}).started()
    scoring.draining = {"a": 0}
    scoring.pass_time(2 * ROOM_S)
    assert scoring.at_work == ["a"], "there is no other"
    assert scoring.scored(*"abcd") == dict.fromkeys(range(4), ONE)
    scoring.actors.room["b"] = 2
    scoring.pass_time(3.0)
    assert scoring.at_work == ["b"]
    assert scoring.pool.restarts == 0
    assert [process.node for process in scoring.pool.processes] == ["b"]


def test_a_batch_lost_with_a_draining_node_is_handed_on_as_it_was() -> None:
    scoring = Scoring(num_scorers=1, batch_size=8, room={"a": 1}).started()
    (leaving,) = scoring.actors.living
    leaving.held = True
    scoring.submit(*"abcd")
    scoring.draining = {"a": 0}
    scoring.pass_time(3.0)
    scoring.actors.lose("a")
    scoring.actors.room["b"] = 1
    assert scoring.drained() == dict.fromkeys(range(4), ONE)
    assert scoring.actors.launched[-1].batches == 1, "in one piece: the completions are not to blame"
    assert scoring.pool.restarts == 0 and scoring.at_work == ["b"]


def test_the_pool_grows_while_completions_queue_and_shrinks_when_there_are_none() -> None:
    scoring = Scoring(num_scorers=1, max_scorers=3, deadline_s=9999.0, room={"a": 9}).started()
    scoring.actors.launched[0].held = True
    scoring.submit(*"abcd")
    scoring.pass_time(CROWDED_S - 2.0)
    assert len(scoring.at_work) == 1
    scoring.pass_time(6.0)
    assert len(scoring.at_work) == 2
    scoring.actors.launched[0].held = False
    assert scoring.drained() == dict.fromkeys(range(4), ONE)
    scoring.pass_time(SPARE_S - 5.0)
    assert len(scoring.at_work) == 2
    scoring.pass_time(20.0)
    assert len(scoring.at_work) == 1
    scoring.pass_time(2 * SPARE_S)
    assert len(scoring.at_work) == 1
    with pytest.raises(SettingError, match="max_scorers 1 is below num_scorers 2"):
        ScoringSettings(num_scorers=2, max_scorers=1)


def test_no_more_scorers_than_allowed() -> None:
    scoring = Scoring(num_scorers=1, max_scorers=2, deadline_s=9999.0, room={"a": 9}).started()
    scoring.submit(*"abcdefgh")
    for _ in range(6):
        for actor in scoring.actors.living:
            actor.held = True
        scoring.pass_time(CROWDED_S + 2.0)
    assert len(scoring.at_work) == 2


def test_what_was_submitted_can_be_forgotten() -> None:
    scoring = Scoring(num_scorers=1, room={"a": 1}).started()
    (actor,) = scoring.actors.living
    actor.held = True
    scoring.submit(*"abcdef")
    scoring.pool.reset()
    assert scoring.pool.num_pending == 0 and scoring.pool.poll() == []
    actor.held = False
    assert scoring.scored("g") == {0: ONE}
    assert actor.asked == ["a", "b", "g"]
