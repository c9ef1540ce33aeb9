"""What a step reports: means over its optimizer steps, the row of bad ones, and the likely cause."""

from __future__ import annotations

import numpy as np
import pytest

from bolt_ray.core.errors import UnhealthyTrainingError
from bolt_ray.engines.learner.agreement import gap_metrics
from bolt_ray.engines.learner.checkpoint import Counters
from bolt_ray.engines.learner.report import count_bad, diagnosis, step_metrics
from bolt_ray.engines.learner.step import BatchOutcome


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
    found = gap_metrics(ours, theirs, np.array([0, 1, 3]))
    assert (found["policy/logprob_gap"], found["policy/logprob_gap_max"]) == (0.5, 1.0)
    assert np.isnan(list(gap_metrics(ours, theirs, np.array([0, 2])).values())).all()


def test_the_ratios_and_the_kl_of_the_generator_are_those_of_the_tokens_it_sampled() -> None:
    # 101 tokens: r = 2 for two of them, 1/4 for two others, 1 for the rest: the second and the 100th by rank count.
    log_ratio = np.zeros(101, dtype=np.float32)
    log_ratio[:2], log_ratio[-2:] = np.log(2.0), np.log(0.25)
    theirs = np.full(101, -1.0, dtype=np.float32)
    found = gap_metrics(theirs + log_ratio, theirs, np.arange(101))
    assert found["policy/ratio_p1"] == pytest.approx(0.25, rel=1e-6)
    assert found["policy/ratio_p99"] == pytest.approx(2.0, rel=1e-6)
    # k3 = r - 1 - log r
    k3 = 2 * (1 - np.log(2.0)) + 2 * (-0.75 + np.log(4.0))
    assert found["policy/gen_kl"] == pytest.approx(k3 / 101, rel=1e-6)


@pytest.mark.parametrize(("tokens", "first", "last"), [(1, 0, 0), (50, 0, 49), (100, 0, 98), (200, 1, 197)])
def test_a_percentile_is_the_token_of_that_rank(tokens: int, first: int, last: int) -> None:
    """The smallest ratio that 1 % of the tokens, or 99 %, do not exceed."""
    log_ratio = np.linspace(-1.0, 1.0, tokens, dtype=np.float32)
    shuffled = np.random.default_rng(0).permutation(log_ratio)
    found = gap_metrics(shuffled, np.zeros(tokens, dtype=np.float32), np.arange(tokens))
    assert found["policy/ratio_p1"] == pytest.approx(np.exp(log_ratio[first]))
    assert found["policy/ratio_p99"] == pytest.approx(np.exp(log_ratio[last]))


def test_the_kl_of_equal_policies_is_no_rounding_error() -> None:
    """Of d = 1e-6 it is d²/2, far below what float32 keeps of r - 1 - log r."""
    theirs = np.zeros(4, dtype=np.float32)
    found = gap_metrics(np.full(4, 1e-6, dtype=np.float32), theirs, np.arange(4))
    assert found["policy/gen_kl"] == pytest.approx(5e-13, rel=1e-3)


def test_one_token_far_away_leaves_finite_numbers() -> None:
    found = gap_metrics(np.zeros(1, dtype=np.float32), np.full(1, -900.0, dtype=np.float32), np.arange(1))
    assert np.isfinite(list(found.values())).all()


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
