"""Learning-rate schedules, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from bolt_ray.core.schedules import LearningRateSchedule


def schedule_of(**changes: Any) -> LearningRateSchedule:
    plain = {"name": "constant", "peak": 1.0, "warmup_steps": 0, "total_steps": 6, "min_ratio": 0.0}
    return LearningRateSchedule(**(plain | changes))


def rates(schedule: LearningRateSchedule, steps: int) -> list[float]:
    return [schedule.at(step) for step in range(steps)]


def test_constant_after_warmup() -> None:
    schedule = schedule_of(peak=4.0, warmup_steps=4)
    assert rates(schedule, 6) == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]


def test_no_warmup_starts_at_the_peak() -> None:
    assert schedule_of(peak=2.0).at(0) == 2.0


def test_linear_ends_at_the_last_version_and_stays() -> None:
    schedule = schedule_of(name="linear", warmup_steps=1, min_ratio=0.2)
    assert rates(schedule, 8) == pytest.approx([1.0, 1.0, 0.8, 0.6, 0.4, 0.2, 0.2, 0.2])


def test_cosine_is_half_way_in_the_middle() -> None:
    schedule = schedule_of(name="cosine", total_steps=5)
    assert rates(schedule, 5) == pytest.approx([1.0, 0.85355339, 0.5, 0.14644661, 0.0])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"name": "step"}, "unknown schedule"),
        ({"min_ratio": 2.0}, "min_ratio"),
    ],
)
def test_impossible_schedules_are_refused(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule_of(**kwargs)
