"""One answer for everything is seen, and equal answers to one prompt are not."""

from __future__ import annotations

import pytest
from support.rollouts import scored_rollout

from bolt_ray.core.records import Prompt, ScoredRollout
from bolt_ray.training.common_answer import MOST_PROMPTS, common_answer


def given(key: str, text: str, reward: float) -> ScoredRollout:
    return scored_rollout(prompt=Prompt(row=0, key=key, prompt="p"), text=text, reward=reward)


def test_answers_are_counted_by_prompts_whatever_leads_to_them() -> None:
    items = [given(f"p{i}", f"because of {i}, <answer>42</answer>", float(i % 2)) for i in range(6)]
    items += [given(f"p{i}", "#### 42.0", 1.0) for i in (6, 7)]
    # Of a prompt with many completions the first one counts.
    items += [given("p8", str(i), 0.0) for i in range(20)] + [given("p9", "7", 0.0)] * 20
    found = common_answer(items)
    assert found == pytest.approx({"completions/most_common_fraction": 0.8, "reward/most_common": 5 / 8})


def test_a_large_step_costs_no_more_than_a_small_one() -> None:
    items = [given(f"p{i}", "42", 1.0) for i in range(MOST_PROMPTS)] + [given(f"q{i}", "7", 0.0) for i in range(1000)]
    assert common_answer(items) == {"completions/most_common_fraction": 1.0, "reward/most_common": 1.0}


def test_saying_nothing_is_an_answer_too() -> None:
    found = common_answer([given(f"p{i}", " ", 0.25) for i in range(8)])
    assert found == {"completions/most_common_fraction": 1.0, "reward/most_common": 0.25}


def test_few_prompts_say_nothing() -> None:
    assert common_answer([given(f"p{i % 7}", "42", 1.0) for i in range(70)]) == {}
    assert common_answer([]) == {}
