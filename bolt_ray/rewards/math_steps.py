"""Partial credit for a worked solution: which of the reference's intermediate results a completion reaches.

Only equations between plain numbers count (``48/2 = 24``, ``\\frac{48}{2} = 24``, GSM8K's ``<<48/2=24>>``), and only
those that hold: a result that is stated without being worked out earns nothing.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

_EQUATION = re.compile(r"([\d(][\d\s.()+\-*/]{0,80}?)=\s*(-?\d{1,32}(?:\.\d{1,32})?)(?![\d.]*\s*[+*/(-])")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_WRITTEN = [
    (re.compile(r"\\d?frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\times|\\cdot|×|(?<=\d)\s*[xX]\s*(?=\d)"), "*"),
    (re.compile(r"\\div|÷"), "/"),
    (re.compile(r"(?<=\d),(?=\d{3})|\\?\$|\\left|\\right|\\,"), ""),
    (re.compile("−"), "-"),
]
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def steps_share(completion: str, solution: str) -> float:
    """Share of the solution's intermediate results that equations of the completion arrive at, in [0, 1].

    Of the completion only the first equations count, twice as many as the solution has results: listing numbers does
    not pay. 0.0 if the solution has no equation.
    """
    wanted = set(results(solution))
    if not wanted:
        return 0.0
    return len(wanted & set(results(completion)[: 2 * len(wanted)])) / len(wanted)


def results(text: str) -> list[Fraction]:
    """The different results of a text's equations that hold, in order; right to the decimals they are given with.

    An equation that only restates its result (``24*1=24``) works out nothing.
    """
    for pattern, plain in _WRITTEN:
        text = pattern.sub(plain, text)
    found: dict[Fraction, None] = {}
    for left, right in _EQUATION.findall(text):
        value, stated = _value(left), Fraction(right)
        decimals = len(right.partition(".")[2])
        exact = value is not None and abs(value - stated) * 2 * 10**decimals <= (1 if decimals else 0)
        if exact and not _is_restated(left, right):
            found[stated] = None
    return list(found)


def _is_restated(left: str, right: str) -> bool:
    """Whether the left side is the result itself, and otherwise ones and zeros: ``24*1=24``."""
    numbers = _NUMBER.findall(left)
    if right not in numbers:
        return False
    numbers.remove(right)
    return set(numbers) <= {"0", "1"}


def _value(expression: str) -> Fraction | None:
    """The exact value of a sum, difference, product or quotient of numbers; None for anything else.

    What a list puts before it (``1. 3*4``) is not part of it.
    """
    expression = expression.strip()
    while re.search(r"[\d)]\s*[-+*/]", expression):
        try:
            return _value_of(ast.parse(expression, mode="eval").body)
        except ZeroDivisionError:
            return None
        except (SyntaxError, ValueError):
            expression = expression.partition(" ")[2].strip()
    return None


def _value_of(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(repr(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value_of(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value_of(left), _value_of(right))
    raise ValueError("not arithmetic")
