from __future__ import annotations

import itertools
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bolt_ray.tasks.arithmetic.expressions import evaluate, parse, render
from bolt_ray.tasks.arithmetic.problems import (
    Problem,
    generate_problems,
    is_correct,
    is_held_out,
)
from bolt_ray.tasks.arithmetic.settings import ProblemSettings

RICH = ProblemSettings(max_digits=3, max_depth=4, max_result_digits=9)


def some(count: int, settings: ProblemSettings = RICH, *, seed: int = 0, held_out: bool = False) -> list[Problem]:
    return list(itertools.islice(generate_problems(settings, seed=seed, held_out=held_out), count))


@pytest.mark.parametrize("settings", [ProblemSettings(), RICH], ids=["default", "rich"])
def test_answers_are_the_values_of_the_expressions(settings: ProblemSettings) -> None:
    for problem in some(1000, settings):
        assert problem.prompt == problem.expression + "="
        assert Fraction(problem.answer) == evaluate(problem.expression)
        assert render(parse(problem.expression)) == problem.expression
        assert str(Fraction(problem.answer)) == problem.answer


@pytest.mark.parametrize("settings", [ProblemSettings(), RICH], ids=["default", "rich"])
def test_every_step_of_the_scratchpad_is_a_true_equality(settings: ProblemSettings) -> None:
    for problem in some(1000, settings):
        steps = problem.scratchpad.split("=") if problem.scratchpad else []
        assert len(steps) < problem.operations
        for step in steps:
            assert evaluate(step) == Fraction(problem.answer), problem
        assert is_correct(problem.completion, problem.answer)
        assert is_correct(problem.answer_only_completion, problem.answer)
        assert problem.completion == problem.scratchpad + problem.answer_only_completion


def test_a_scratchpad_reduces_one_operation_at_a_time() -> None:
    by_prompt = {problem.prompt: problem for problem in some(20_000, ProblemSettings())}
    assert by_prompt["9*7="].completion == "<answer>63</answer>"
    nested = next(p for p in by_prompt.values() if re.fullmatch(r"[0-9]\*\([0-9]-[0-9]\)=", p.prompt))
    a, b, c = (int(digit) for digit in re.findall("[0-9]", nested.prompt))
    assert nested.completion == f"{a}*{b - c}<answer>{a * (b - c)}</answer>"
    assert (nested.depth, nested.digits, nested.operations) == (2, 1, 2)


def test_the_settings_bound_the_problems() -> None:
    problems = some(2000, ProblemSettings(max_digits=2, max_depth=3, max_result_digits=3))
    assert {problem.depth for problem in problems} == {1, 2, 3}
    assert {problem.digits for problem in problems} == {1, 2}
    assert ProblemSettings(max_digits=2).result_digits == 3
    for problem in problems:
        assert all(int(number) < 1000 for number in re.findall("[0-9]+", problem.completion))
    text = "".join(problem.prompt for problem in problems)
    assert all(part in text for part in ("+", "-", "*", "/", "abs(", "prev(", "next(", "-("))
    assert any("/" in problem.answer for problem in problems)


def test_the_seed_decides() -> None:
    assert some(50, seed=3) == some(50, seed=3)
    assert some(50, seed=3) != some(50, seed=4)


def test_held_out_prompts_are_never_drawn_for_training() -> None:
    assert all(is_held_out(problem.prompt) for problem in some(300, held_out=True))
    assert not any(is_held_out(problem.prompt) for problem in some(3000))


@pytest.mark.parametrize(
    ("completion", "answer", "right"),
    [
        ("<answer>1/2</answer>", "1/2", True),
        ("<answer>2/4</answer>", "1/2", True),
        ("4/2=2<answer> 4/2 </answer>", "2", True),
        ("<answer>-1/3</answer>", "-1/3", True),
        ("<answer>-0</answer>", "0", True),
        ("<answer>1/3</answer>", "-1/3", False),
        ("<answer>333333333/1000000000</answer>", "1/3", False),
        ("", "1", False),
        ("1", "1", False),
        ("<answer>1", "1", False),
        ("1</answer>", "1", False),
        ("<answer></answer>", "1", False),
        ("<answer>1/0</answer>", "1", False),
        ("<answer>1/-1</answer>", "-1", False),
        ("<answer>one</answer>", "1", False),
        ("<answer>0.5</answer>", "1/2", False),
        ("<answer>1+1</answer>", "2", False),
        ("<answer>١</answer>", "1", False),
        ("<answer>1</answer><answer>2</answer>", "1", False),
        ("<answer><answer>1</answer></answer>", "1", False),
        (f"<answer>{'9' * 5000}</answer>", "1", False),
    ],
)
def test_an_answer_is_compared_as_a_rational_number(completion: str, answer: str, right: bool) -> None:
    assert is_correct(completion, answer) is right


@given(st.text() | st.from_regex(r"<answer>[-0-9/ ]*</answer>"))
def test_no_completion_raises(completion: str) -> None:
    assert is_correct(completion, "1/3") in (False, True)


@pytest.mark.parametrize("answer", ["", "x", "1/0", "0.5"])
def test_a_reference_that_is_no_number_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match="reference answer"):
        is_correct("<answer>1</answer>", answer)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_digits": 0}, "max_digits"),
        ({"max_digits": 10}, "max_digits"),
        ({"max_depth": 0}, "max_depth"),
        ({"max_digits": 3, "max_result_digits": 2}, "max_result_digits"),
        ({"unary_fraction": 1.5}, "unary_fraction"),
        ({"negative_fraction": -0.1}, "negative_fraction"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProblemSettings(**wrong)  # type: ignore[arg-type]
