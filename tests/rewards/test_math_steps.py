"""The equations of a worked solution: which are read, and which hold."""

from __future__ import annotations

from fractions import Fraction

import pytest

from bolt_ray.rewards.math_steps import results, steps_share


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("48/2 = <<48/2=24>>24 clips", ["24"]),
        ("1. 24+48=72\n2) 72 - 2 = 70", ["72", "70"]),
        (r"\frac{1}{2} \times 8 = 4, 6 \cdot 7 = 42, 9 \div 3 = 3", ["4", "42", "3"]),
        ("$1,000 - $1 = $999", ["999"]),
        ("10/3=3.33 and 10/3=3.3 but 10/3=3.34", ["3.33", "3.3"]),
        ("(3+4)*2=14=7*2", ["14"]),
        ("5 − 7 = -2", ["-2"]),
        ("2 x 3 = 6", ["6"]),
        ("x=3, 7=7, 2+2=5, 1/0=3, 2**9=512, 5%2=1", []),
        ("2+3=5+1", []),
        ("24*1=24, 72-0=72, 0+5=5", []),
        ("(" * 500 + "1+1=2", []),
        ("1+" * 5000 + "1=5001", []),
    ],
)
def test_results_of_equations_that_hold(text: str, found: list[str]) -> None:
    assert results(text) == [Fraction(number) for number in found]


def test_a_solution_without_equations_has_no_steps() -> None:
    assert steps_share("1+1=2", "two") == 0.0
