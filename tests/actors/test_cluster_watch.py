"""The nodes being drained, as Ray's head tells them."""

from __future__ import annotations

from bolt_ray.actors.cluster_watch import LOOK_S, ClusterWatch


def test_a_look_is_kept_for_a_while() -> None:
    answers = iter([{"a": 1}, {"a": 1, "b": 2}])
    moment = [0.0]
    watch = ClusterWatch(lambda: next(answers), now=lambda: moment[0])
    assert watch.draining() == watch.draining() == {"a"}
    moment[0] = LOOK_S
    assert watch.draining() == {"a", "b"}


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
