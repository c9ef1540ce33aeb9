"""How long a run waits for rewards that fail, and when it stops."""

from __future__ import annotations

import pytest

from bolt_ray.core.errors import UnhealthyTrainingError
from bolt_ray.core.records import UnscoredReason
from bolt_ray.rewards.unscored import UnscoredWatch

DOWN = UnscoredReason(reward="judge", kind="unavailable")


def judge(watch: UnscoredWatch, scored: int, unscored: int) -> float:
    return watch.judge(num_scored=scored, reasons={DOWN: unscored} if unscored else {})


def watch_of(*, patience_s: float = 900.0, worked_before: bool = False) -> UnscoredWatch:
    return UnscoredWatch(max_unscored_fraction=0.5, patience_s=patience_s, worked_before=worked_before)


def test_a_reward_that_never_worked_ends_the_run_at_once() -> None:
    with pytest.raises(UnhealthyTrainingError, match=r"5 of 8 completions \(62%\).* 5 × judge: unavailable"):
        judge(watch_of(), 3, 5)


def test_what_is_tolerated_is_trained() -> None:
    assert [judge(watch_of(), 4, 4), judge(watch_of(), 8, 0)] == [0.0, 0.0]


def test_an_outage_is_waited_out_in_pauses_that_grow() -> None:
    watch = watch_of()
    judge(watch, 8, 0)
    assert [judge(watch, 0, 8) for _ in range(7)] == [5.0, 10.0, 20.0, 40.0, 80.0, 120.0, 120.0]
    assert judge(watch, 8, 0) == 0.0
    assert judge(watch, 0, 8) == 5.0, "the next outage is another one"


def test_patience_has_an_end_that_is_kept_exactly() -> None:
    watch = watch_of(patience_s=17.0, worked_before=True)
    assert [judge(watch, 0, 8) for _ in range(3)] == [5.0, 10.0, 2.0]
    with pytest.raises(
        UnhealthyTrainingError, match=r"8 of 8 .*; tried again for 17 s \(scoring.unscored_patience_s\)"
    ):
        judge(watch, 0, 8)


def test_without_patience_a_bad_step_ends_the_run() -> None:
    with pytest.raises(UnhealthyTrainingError, match="8 of 8"):
        judge(watch_of(patience_s=0.0, worked_before=True), 0, 8)


def test_one_bad_step_among_good_ones_is_trained_after_a_few_tries() -> None:
    watch = watch_of()
    for _ in range(3):
        judge(watch, 8, 0)
    # 5 + 10 + 20 s; then the four steps together count: 6 of 32.
    assert [judge(watch, 2, 6) for _ in range(4)] == [5.0, 10.0, 20.0, 0.0]
    # Of the last four steps now 12, then 18 of 32 have none.
    assert [judge(watch, 2, 6) for _ in range(4)] == [5.0, 10.0, 20.0, 0.0]
    assert [judge(watch, 2, 6) for _ in range(4)] == [5.0, 10.0, 20.0, 40.0]


def test_a_step_without_any_reward_is_never_trained() -> None:
    watch = watch_of()
    for _ in range(3):
        judge(watch, 8, 0)
    assert all(judge(watch, 0, 8) > 0.0 for _ in range(6))
