"""What is told of a step's completions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.rollouts import scored_rollout, unscored_rollout

from bolt_ray.core.records import Prompt, ScoredRollout
from bolt_ray.training.completion_metrics import RunTotals, completion_metrics
from bolt_ray.training.rollout import StepRollouts


def completion(tokens: int, *, source: str = "", **changes: Any) -> ScoredRollout:
    prompt = Prompt(row=0, key="k", prompt="p", source=source)
    return scored_rollout(tokens=tokens, prompt=prompt, oldest_version=3, newest_version=3, **changes)


def test_lengths_are_described_by_percentiles_and_without_those_cut_off() -> None:
    # 0, 1, … 20 tokens: the p-th percentile is 20·p/100.
    found = completion_metrics([completion(n, truncated=n >= 19) for n in range(21)])
    assert found["completions/mean_length"] == 10.0
    assert (found["completions/min_length"], found["completions/max_length"]) == (0.0, 20.0)
    percentiles = [found[f"completions/p{percent}_length"] for percent in (10, 50, 90, 95)]
    assert percentiles == pytest.approx([2.0, 10.0, 18.0, 19.0])
    assert found["completions/truncated_fraction"] == pytest.approx(2 / 21)
    assert found["completions/terminated_mean_length"] == 9.0
    assert "completions/terminated_mean_length" not in completion_metrics([completion(4, truncated=True)])


def test_rewards_are_told_by_source_and_completions_of_two_versions_are_counted() -> None:
    items = [completion(1, reward=1.0, source="a"), completion(1, reward=0.0, source="a")]
    items += [completion(1, reward=0.25, source="b"), replace(completion(1, reward=7.0), newest_version=4)]
    found = completion_metrics(items)
    assert {name: value for name, value in found.items() if name.startswith("reward/")} == {
        "reward/source/a": 0.5,
        "reward/source/b": 0.25,
    }
    assert found["policy/versions_mixed_fraction"] == 0.25


def test_totals_count_what_was_generated_whether_it_was_trained_or_not() -> None:
    lost = unscored_rollout(request_id=1, tokens=5)
    step = StepRollouts(
        trainable=(completion(2), completion(3)),
        unscored=(lost,),
        baseline_only=(completion(7),),
        dropped=(),
        refilled=0,
    )
    totals = RunTotals({}, started=0.0)
    assert totals.add(step) == {"total/completions": 4.0, "total/tokens": 17.0}
    assert totals.add(step) == {"total/completions": 8.0, "total/tokens": 34.0}
