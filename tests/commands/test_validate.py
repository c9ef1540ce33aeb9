"""What ``validate`` says of a step."""

from __future__ import annotations

from typing import Any

import pytest

from bolt_ray.commands.shared.resources import describe_step
from bolt_ray.config.loading import build_config
from bolt_ray.config.resolve import resolve

TWO = ["math", {"type": "format", "weight": 0.2}]


@pytest.mark.parametrize(
    ("baseline", "said", "warned"),
    [
        ({}, "Rewards of 0 to 1.2 are scaled to 0 to 1 for v̂", False),
        ({"reward_range": [0, 1]}, "Warning: they can be 0 to 1.2; what lies outside is cut", True),
        ({"reward_range": [-1, 2]}, "Rewards of -1 to 2 are scaled", False),
    ],
)
def test_the_range_of_rewards_is_said_before_the_run(baseline: dict[str, Any], said: str, warned: bool) -> None:
    config = build_config({"datasets": [{"name": "x.jsonl"}], "rewards": TWO, "baseline": baseline})
    text = describe_step(resolve(config, use_gpu=False))
    assert said in text
    assert ("Warning" in text) is warned


def test_datasets_whose_rewards_differ_are_told() -> None:
    sources = [{"name": "a.jsonl", "reward": "math"}, {"name": "b.jsonl", "reward": "exact"}]
    config = build_config({"datasets": sources, "rewards": ["math", {"type": "exact", "weight": 3}]})
    assert "the datasets' rewards differ (0 to 1, 0 to 3)" in describe_step(resolve(config, use_gpu=False))


def test_a_warm_start_of_one_s_own_is_told() -> None:
    config = build_config({"algo": "spo", "datasets": [{"name": "a.jsonl"}], "rewards": ["math"]})
    assert "Before the first step: 8 completions of every prompt" in describe_step(resolve(config, use_gpu=False))
