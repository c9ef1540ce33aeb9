"""The nodes being drained, as Ray's head tells them."""

from __future__ import annotations

import time

from bolt_ray.actors.cluster_watch import LOOK_S, ClusterWatch


def test_a_look_is_kept_for_a_while() -> None:
    answers = iter([{"a": 1}, {"a": 1, "b": 2}])
    moment = [0.0]
    watch = ClusterWatch(lambda: next(answers), now=lambda: moment[0])
    assert watch.draining() == watch.draining() == {"a"}
    moment[0] = LOOK_S
    assert watch.draining() == {"a", "b"}


def test_how_long_a_node_has_is_told_where_somebody_said_when() -> None:
    going = {"told": int((time.time() + 60.0) * 1000), "untold": 0}
    watch = ClusterWatch(lambda: going)
    assert watch.seconds_left("told") is None, "nobody has looked"
    watch.draining()
    left = watch.seconds_left("told")
    assert left is not None
    assert 0.0 < left <= 60.0
    assert watch.seconds_left("untold") is None
    assert watch.seconds_left("another") is None


def test_a_head_that_does_not_answer_leaves_the_last_answer() -> None:
    def ask() -> dict[str, int]:
        if moment[0] > 0.0:
            raise ConnectionError("no head")
        return {"a": 0}

    moment = [0.0]
    watch = ClusterWatch(ask, now=lambda: moment[0])
    watch.draining()
    moment[0] = LOOK_S
    assert watch.draining() == {"a"}
