"""Answers compared by math-verify in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bolt_ray.core.evaluation.voting import merge_equal
from bolt_ray.rewards.equivalence import MathEquality
from bolt_ray.rewards.mathematics import MathSettings


@pytest.fixture
def equality() -> Iterator[MathEquality]:
    made = MathEquality(
        reward=MathSettings(type="math", parse_timeout_s=1), timeout_s=60.0, memory_mb=4096, startup_timeout_s=120.0
    )
    yield made
    made.close()


def test_forms_of_one_answer_are_equal_and_what_ends_the_comparison_is_equal_to_none(equality: MathEquality) -> None:
    half = r"\frac{1}{2}"
    endless = r"9^{9^{9^{9}}}"
    assert merge_equal([[half, r"\dfrac{1}{2}", r"\frac12", "1/2", r"\frac{2}{3}"]], equality) == [
        [half, half, half, half, r"\frac{2}{3}"]
    ]
    assert equality([("x+1", "1+x"), ("x", "y"), (endless, "2"), ("", "2"), ("2", "$")]) == [True, False] + [False] * 3
