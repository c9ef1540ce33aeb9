from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bolt_ray.tasks.arithmetic.expressions import (
    BINARY_OPERATORS,
    UNARY_OPERATORS,
    Binary,
    Expression,
    Number,
    Unary,
    evaluate,
    parse,
    reduce_once,
    render,
    value_of,
)

TREES: st.SearchStrategy[Expression] = st.recursive(
    st.builds(Number, st.integers(-99, 99).map(Fraction)),
    lambda inner: (
        st.builds(Unary, st.sampled_from(UNARY_OPERATORS), inner)
        | st.builds(Binary, st.sampled_from(BINARY_OPERATORS), inner, inner)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", Fraction(7)),
        ("-7", Fraction(-7)),
        ("2+3*4", Fraction(14)),
        ("(2+3)*4", Fraction(20)),
        ("10-3-2", Fraction(5)),
        ("24/4/2", Fraction(3)),
        ("24/(4/2)", Fraction(12)),
        ("1/-3", Fraction(-1, 3)),
        ("1/2+1/3", Fraction(5, 6)),
        ("(1/3)/(2/5)", Fraction(5, 6)),
        ("3--4", Fraction(7)),
        ("-(2+3)", Fraction(-5)),
        ("--3", Fraction(3)),
        ("abs(2-9)", Fraction(7)),
        ("prev(0)", Fraction(-1)),
        ("next(1/2)", Fraction(3, 2)),
        ("prev(next(abs(-5)))*2", Fraction(10)),
        (" 1 + 2 ", Fraction(3)),
    ],
)
def test_values_are_exact(text: str, value: Fraction) -> None:
    assert evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "=", "1+", "(1", "1)", "1 2", "abs 3", "abs", "sqrt(4)", "1.5", "2**3", "()", "*2"),
        *("__import__('os')", "٣", "²", "1" * 65, "(" * 51 + "1" + ")" * 51, "+".join("1" * 300)),
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expression|number"):
        parse(text)


@pytest.mark.parametrize("text", ["1/0", "3/(2-2)", "1/(0*5)"])
def test_division_by_zero_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="divides by zero"):
        evaluate(text)


@given(TREES)
def test_the_text_of_a_tree_reads_back_as_the_same_tree(tree: Expression) -> None:
    assert parse(render(tree)) == tree


def test_no_parenthesis_more_than_needed() -> None:
    one, two, three = Number(Fraction(1)), Number(Fraction(-2)), Number(Fraction(3))
    assert render(Binary("+", one, Binary("*", two, three))) == "1+-2*3"
    assert render(Binary("*", Binary("+", one, two), three)) == "(1+-2)*3"
    assert render(Binary("-", one, Binary("-", two, three))) == "1-(-2-3)"
    assert render(Unary("-", Unary("prev", one))) == "-(prev(1))"


def test_reducing_goes_innermost_and_leftmost_first() -> None:
    tree = parse("(1+2)/(3-5)-abs(4*-2)")
    texts = []
    while not isinstance(tree, Number):
        tree = reduce_once(tree)
        texts.append(render(tree))
    assert texts == ["3/(3-5)-abs(4*-2)", "3/-2-abs(4*-2)", "-3/2-abs(4*-2)", "-3/2-abs(-8)", "-3/2-8", "-19/2"]
    assert reduce_once(tree) == tree
    third = Number(Fraction(1, 3))
    assert render(Binary("/", third, third)) == "1/3/(1/3)"
    assert render(Binary("+", third, third)) == "1/3+1/3"
    assert render(Unary("-", third)) == "-(1/3)"
    with pytest.raises(ValueError, match="divides by zero"):
        reduce_once(parse("1/0"))


@given(TREES)
def test_reducing_keeps_the_value(tree: Expression) -> None:
    try:
        value = value_of(tree)
    except ValueError:
        return
    while not isinstance(tree, Number):
        tree = reduce_once(tree)
        assert evaluate(render(tree)) == value
    assert tree.value == value
