"""The answer of a completion: where it is looked for, and how equal answers are written."""

from __future__ import annotations

import pytest

from bolt_ray.core.evaluation.answers import extract_answer, last_boxed, last_number, normalize_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3-5=-2;12*-2=-24<answer>-24</answer>", "-24"),
        ("<answer>1</answer> no, <answer> 2 </answer> 3", "2"),
        (r"<answer>so \boxed{7}</answer> 8", "7"),
        (r"thus \boxed{\frac{1}{2}} or 5", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2", None),
        (r"so it is \boxed{2", None),
        (r"\boxed{a \boxed{b}}", "b"),
        ("43-3=40 are left\n#### 40 ", "40"),
        ("#### 3 is not it\n#### 1,234", "1234"),
        ("#### 3\n\nNo: \\boxed{4}", "4"),
        ("\\boxed{3}\n#### 4", "4"),
        ("\\boxed{3\n#### 4", "4"),
        ("## 3\nthe 5th #### 4 of 6", "6"),
        ("#### Step 1\n3+4=7\n#### Conclusion\nIt is 7", "7"),
        ("\\boxed{3}\n#### Note 4", "3"),
        ("\\boxed{7}\n#### 步骤 3 验证", "7"),
        ("\\boxed{7}\n#### ---", "7"),
        ("#### 1)\nx=2\n#### 2)\nFinal answer: 7", "7"),
        ("#### **42**", "42"),
        ("so it is\n#### Paris\n", "Paris"),
        ("#### 18 dollars", "18"),
        ("#### \\frac{1}{2}\n", r"\frac{1}{2}"),
        ("<answer>1", "1"),
        ("it costs $1,200.50.", "2401/2"),
        ("3 + 4 = 7", "7"),
        ("about 12 %", "12%"),
        ("  the capital   is Paris\n", "the capital is Paris"),
        ("<answer></answer> 4", None),
        (" \n", None),
        ("", None),
    ],
)
def test_where_the_answer_is(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("2/4", "1/2"),
        ("-0.50", "-1/2"),
        ("$1,000$", "1000"),
        ("3.0", "3"),
        ("+3.", "3"),
        ("−5", "-5"),
        (r"50\%", "50%"),
        ("1/0", "1/0"),
        ("x  =  3", "x = 3"),
        ("9" * 5000, "9" * 5000),
        ("$", None),
    ],
)
def test_equal_answers_are_written_one_way(written: str, normal: str | None) -> None:
    assert normalize_answer(written) == normal


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} \boxed {2}", "2"),
        (r"\boxed{1} and \boxed{2", ""),
        (r"\boxed{\{1\}}", r"\{1\}"),
        (r"\fbox{3}", "3"),
        (r"\fbox { {1} \} }", r"{1} \}"),
        ("{no box}", None),
        ("none", None),
    ],
)
def test_last_boxed(text: str, boxed: str | None) -> None:
    assert last_boxed(text) == boxed


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("3 and 3/4", "3/4"),
        ("-1,234.5 km", "-1,234.5"),
        ("10-5", "5"),
        (r"about 12\% of", "12%"),
        ("It is 5.", "5"),
        ("costs $1,250.", "1,250"),
        (".5", ".5"),
        ("from -3 to x-4, 5/6", "5/6"),
        ("x-4", "4"),
        ("none", None),
        ("", None),
    ],
)
def test_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == number


def test_a_completion_gone_wild_costs_little() -> None:
    # A reading quadratic in these would run into the time limit of the tests.
    for text in ("\\boxed{" * 20_000, "<answer>" * 20_000, "1" * 100_000, "1," * 50_000, "{" * 100_000):
        assert (extract_answer(text) is None) == text.startswith("\\boxed")
