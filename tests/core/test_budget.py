"""Failures within a window of time."""

from __future__ import annotations

from bolt_ray.core.budget import Budget


def test_a_failure_too_many_within_the_window_is_refused() -> None:
    budget = Budget(2, window_s=10.0, now=lambda: 0.0)
    assert [budget.spend(), budget.spend(), budget.spend()] == [True, True, False]


def test_failures_far_apart_never_use_it_up() -> None:
    clock = iter(range(0, 100_000, 11))
    moment = [0.0]
    budget = Budget(1, window_s=10.0, now=lambda: moment[0])
    for moment[0] in clock:
        assert budget.spend()
    assert budget.spent == 1
