"""What a step reports: means over its optimizer steps, the row of bad ones, and the likely cause."""

from __future__ import annotations

import numpy as np
import pytest

from bolt_ray.core.errors import UnhealthyTrainingError
from bolt_ray.engines.learner.checkpoint import Counters
from bolt_ray.engines.learner.report import count_bad, diagnosis, step_metrics
from bolt_ray.engines.learner.step import BatchOutcome, gap_metrics


def outcome(**values: object) -> BatchOutcome:
    return BatchOutcome(before=np.empty(0, dtype=np.float32), **values)  # type: ignore[arg-type]


def test_metrics_are_means_over_the_steps_that_have_them() -> None:
    done = outcome(applied=2, metrics=[{"a": 1.0, "b": 4.0}, {"a": 2.0}], gap={"policy/logprob_gap": 0.25})
    counters = Counters(bad_in_a_row=1, bad_total=3)
    assert step_metrics(done, counters=counters, learning_rate=0.1, controller={"beta": 7.0}) == {
        "a": 1.5,
        "b": 4.0,
        "policy/logprob_gap": 0.25,
        "optim/learning_rate": 0.1,
        "optim/updates": 2.0,
        "optim/bad_steps_in_a_row": 1.0,
        "optim/bad_steps_total": 3.0,
        "beta": 7.0,
    }


def test_the_gap_is_a_mean_and_a_maximum_over_the_tokens_given() -> None:
    ours = np.array([-1.0, -2.0, np.nan, -4.0], dtype=np.float32)
    theirs = np.array([-1.5, -2.0, -3.0, -3.0], dtype=np.float32)
    assert gap_metrics(ours, theirs, np.array([0, 1, 3])) == {"policy/logprob_gap": 0.5, "policy/logprob_gap_max": 1.0}
    assert np.isnan(list(gap_metrics(ours, theirs, np.array([0, 2])).values())).all()


def test_a_row_of_bad_steps_is_counted_and_ended_by_a_good_one() -> None:
    counters = Counters()
    for bad in (True, True, False, True):
        count_bad(outcome(bad=bad), counters=counters, step=1, max_bad_steps=3)
    assert (counters.bad_in_a_row, counters.bad_total) == (1, 3)
    count_bad(outcome(bad=True), counters=counters, step=2, max_bad_steps=3)
    with pytest.raises(UnhealthyTrainingError, match="3 steps in a row up to step 9"):
        count_bad(outcome(bad=True), counters=counters, step=9, max_bad_steps=3)


@pytest.mark.parametrize(
    ("gap", "cause"),
    [
        (float("nan"), "weights have diverged"),
        (float("inf"), "weights have diverged"),
        (1.01, "sampling settings disagree"),
        (0.99, "backward pass overflows"),
    ],
)
def test_the_gap_tells_the_likely_cause(gap: float, cause: str) -> None:
    assert cause in diagnosis(gap)
    done = outcome(bad=True, gap={"policy/logprob_gap": 0.0, "policy/logprob_gap_max": gap})
    with pytest.raises(UnhealthyTrainingError, match=cause):
        count_bad(done, counters=Counters(), step=0, max_bad_steps=1)
