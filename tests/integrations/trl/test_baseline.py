"""UnifiedBaseline: keys as under Ray, outcomes that wait for their step and are taken once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.trl_runs import evidence

from bolt_ray.core.baseline import BaselineStore
from bolt_ray.core.errors import ConfigError, DataError
from bolt_ray.core.keys import prompt_key
from bolt_ray.integrations.trl import UnifiedBaseline
from bolt_ray.integrations.trl.baseline import row_key

CHAT = [{"role": "user", "content": "1+1=?"}]


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ({"prompt": "1+1=?"}, "c1f45ef80399d283c7a7641ff5f09c9d"),
        ({"prompt": CHAT}, prompt_key(CHAT)),
        ({"prompt": [{"role": "user", "content": "1+1=?", "name": None}]}, prompt_key(CHAT)),
        ({"prompt": [{"role": "user", "content": [{"type": "text", "text": "1+1=?"}]}]}, prompt_key(CHAT)),
        ({"prompt": "1+1=?", "prompt_id": "one"}, "one"),
        ({"prompt": "look", "image": "a picture", "prompt_id": 7}, "7"),
    ],
)
def test_keys_are_those_of_a_run_under_ray(row: dict[str, object], key: str) -> None:
    assert row_key(row) == key


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"prompt": "look", "image": "a picture"},
        {"prompt": [{"role": "user", "content": [{"type": "image"}]}]},
    ],
)
def test_a_row_that_its_text_does_not_identify_is_refused(row: dict[str, object]) -> None:
    with pytest.raises(DataError, match="add a column prompt_id"):
        row_key(row)


def test_outcomes_are_taken_once_after_the_step() -> None:
    baseline, store = UnifiedBaseline(), BaselineStore()
    scaled = baseline.observe(["a", "b", "a", "c"], [1.0, 0.0, 0.5, math.nan], version=4)
    assert scaled[:3].tolist() == [1.0, 0.0, 0.5] and math.isnan(scaled[3])
    assert len(baseline.store) == 0
    assert baseline.commit("step-5", drift=0.1)
    assert not baseline.commit("step-5", drift=0.1)
    store.update_many(["a", "b"], [1.5, 0.0], [2, 1], versions=4, drift=0.1)
    assert evidence(baseline.store) == evidence(store)
    assert baseline.store.counters == store.counters


def test_a_step_without_outcomes_counts_its_drift() -> None:
    """As a second step over the same completions does."""
    baseline = UnifiedBaseline()
    baseline.observe(["a"], [1.0], version=0)
    baseline.commit("step-1", drift=0.1)
    baseline.commit("step-2", drift=0.2)
    assert baseline.store.counters.drift_total == pytest.approx(0.3)
    assert evidence(baseline.store)["a"]["visits"] == 1
    assert not baseline.commit("step-3")


def test_outcomes_of_a_skipped_step_go_unless_another_trains_on_them() -> None:
    baseline = UnifiedBaseline()
    baseline.observe(["a"], [1.0], version=0)
    baseline.skip()
    baseline.commit("step-2")
    assert set(evidence(baseline.store)) == {"a"}
    baseline.observe(["b"], [1.0], version=2)
    baseline.skip()
    baseline.observe(["c"], [1.0], version=3)
    baseline.commit("step-4")
    assert set(evidence(baseline.store)) == {"a", "c"}
    assert baseline.pending == ()


def test_rewards_outside_an_unnamed_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"baseline_reward_range: a reward is 2, outside \[0, 1\]"):
        UnifiedBaseline().observe(["a"], [2.0], version=0)
    scaled = UnifiedBaseline(reward_range=(-1.0, 1.0)).observe(["a", "b", "c"], [0.0, 1.0, 9.0], version=0)
    assert np.allclose(scaled, [0.5, 1.0, 1.0])
