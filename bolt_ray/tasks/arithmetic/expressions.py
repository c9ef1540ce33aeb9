"""Arithmetic expressions: the syntax, a parser, exact values and the text of a tree.

    expression = term (("+" | "-") term)*            left-associative
    term       = factor (("*" | "/") factor)*        left-associative
    factor     = "-" factor | number | "(" expression ")" | name "(" expression ")"
    name       = "abs" | "prev" | "next"             prev(x) = x - 1, next(x) = x + 1
    number     = one or more ASCII digits

A minus sign directly before a number is part of the number. Values are exact rationals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, TypeAlias, cast

BinaryOperator: TypeAlias = Literal["+", "-", "*", "/"]
UnaryOperator: TypeAlias = Literal["-", "abs", "prev", "next"]

BINARY_OPERATORS: tuple[BinaryOperator, ...] = ("+", "-", "*", "/")
UNARY_OPERATORS: tuple[UnaryOperator, ...] = ("-", "abs", "prev", "next")

_PRECEDENCE: dict[str, int] = {"+": 1, "-": 1, "*": 2, "/": 2}
_TOKEN = re.compile(r"\s*([0-9]+|abs|prev|next|[-+*/()])")
# Python turns longer digit strings into integers in quadratic time; no problem here needs them.
_MAX_NUMBER_LENGTH = 64
# The parser and the evaluation recurse; text from outside must not exhaust the stack.
_MAX_NESTING = 50
_MAX_TOKENS = 500


@dataclass(frozen=True, slots=True)
class Number:
    """A value. The parser makes integers, possibly negative; reducing an expression makes fractions too."""

    value: Fraction


@dataclass(frozen=True, slots=True)
class Unary:
    """An operation on one expression."""

    operator: UnaryOperator
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary:
    """An operation on two expressions."""

    operator: BinaryOperator
    left: Expression
    right: Expression


Expression: TypeAlias = Number | Unary | Binary


def apply_unary(operator: UnaryOperator, value: Fraction) -> Fraction:
    """The value of one unary operation."""
    match operator:
        case "-":
            return -value
        case "abs":
            return abs(value)
        case "prev":
            return value - 1
        case "next":
            return value + 1


def apply_binary(operator: BinaryOperator, left: Fraction, right: Fraction) -> Fraction:
    """The value of one binary operation.

    Raises:
        ValueError: division by zero.
    """
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            if right == 0:
                raise ValueError("the expression divides by zero")
            return left / right


def value_of(expression: Expression) -> Fraction:
    """The exact value of a tree.

    Raises:
        ValueError: division by zero.
    """
    match expression:
        case Number(value):
            return value
        case Unary(operator, operand):
            return apply_unary(operator, value_of(operand))
        case Binary(binary_operator, left, right):
            return apply_binary(binary_operator, value_of(left), value_of(right))


def count_operations(expression: Expression) -> int:
    """How many operations a tree has."""
    match expression:
        case Unary(_, operand):
            return 1 + count_operations(operand)
        case Binary(_, left, right):
            return 1 + count_operations(left) + count_operations(right)
        case _:
            return 0


def render(expression: Expression) -> str:
    """The text of a tree with no parenthesis more than needed.

    ``parse(render(tree)) == tree``, but that a fraction reads back as the division it is written as.
    """
    match expression:
        case Number(value):
            return str(value)
        case Unary(operator, operand):
            return f"{operator}({render(operand)})"
        case Binary(binary_operator, left, right):
            precedence = _PRECEDENCE[binary_operator]
            left_text, right_text = render(left), render(right)
            if _binding(left) < precedence:
                left_text = f"({left_text})"
            if _binding(right) <= precedence:
                right_text = f"({right_text})"
            return f"{left_text}{binary_operator}{right_text}"


def reduce_once(expression: Expression) -> Expression:
    """The tree with its leftmost innermost operation replaced by the value; a number stays as it is.

    Raises:
        ValueError: division by zero.
    """
    match expression:
        case Unary(operator, Number(value)):
            return Number(apply_unary(operator, value))
        case Unary(operator, operand):
            return Unary(operator, reduce_once(operand))
        case Binary(binary_operator, Number(left_value), Number(right_value)):
            return Number(apply_binary(binary_operator, left_value, right_value))
        case Binary(binary_operator, Number() as left, right):
            return Binary(binary_operator, left, reduce_once(right))
        case Binary(binary_operator, left, right):
            return Binary(binary_operator, reduce_once(left), right)
        case _:
            return expression


def _binding(expression: Expression) -> int:
    """How tightly the outermost operation of the text binds; a fraction is written as a division."""
    match expression:
        case Binary(operator, _, _):
            return _PRECEDENCE[operator]
        case Number(value) if value.denominator != 1:
            return _PRECEDENCE["/"]
        case _:
            return 3


def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        ValueError: the text is not an expression; the message names the position.
    """
    return _Parser(text).parse()


def evaluate(expression_text: str) -> Fraction:
    """The exact value of an expression given as text.

    Raises:
        ValueError: the text is not an expression, or it divides by zero.
    """
    return value_of(parse(expression_text))


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[int, str]] = []
        self._next = 0
        self._nesting = 0
        position = 0
        stripped = text.rstrip()
        while position < len(stripped):
            found = _TOKEN.match(stripped, position)
            if found is None:
                raise ValueError(f"not an expression: unexpected {stripped[position]!r} at position {position}")
            self._tokens.append((found.start(1), found.group(1)))
            position = found.end()
        if len(self._tokens) > _MAX_TOKENS:
            raise ValueError(f"the expression has more than {_MAX_TOKENS} tokens")

    def parse(self) -> Expression:
        tree = self._expression()
        if self._next < len(self._tokens):
            position, token = self._tokens[self._next]
            raise ValueError(f"not an expression: unexpected {token!r} at position {position}")
        return tree

    def _peek(self) -> str:
        return self._tokens[self._next][1] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _expression(self) -> Expression:
        tree = self._term()
        while self._peek() in ("+", "-"):
            operator = cast(BinaryOperator, self._take())
            tree = Binary(operator, tree, self._term())
        return tree

    def _term(self) -> Expression:
        tree = self._factor()
        while self._peek() in ("*", "/"):
            operator = cast(BinaryOperator, self._take())
            tree = Binary(operator, tree, self._factor())
        return tree

    def _factor(self) -> Expression:
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            raise ValueError(f"the expression is nested more than {_MAX_NESTING} deep")
        tree = self._unnested_factor()
        self._nesting -= 1
        return tree

    def _unnested_factor(self) -> Expression:
        token = self._take()
        if token.isdigit():
            return Number(self._integer(token))
        if token == "-":
            if self._peek().isdigit():
                return Number(-self._integer(self._take()))
            return Unary("-", self._factor())
        if token == "(":
            return self._closed()
        if token in ("abs", "prev", "next"):
            if self._take() != "(":
                raise ValueError(f"not an expression: {token} must be followed by a parenthesis")
            return Unary(cast(UnaryOperator, token), self._closed())
        what = f"unexpected {token!r}" if token else "it ends too early"
        raise ValueError(f"not an expression: {what}")

    def _closed(self) -> Expression:
        inner = self._expression()
        if self._take() != ")":
            raise ValueError("not an expression: a parenthesis is not closed")
        return inner

    @staticmethod
    def _integer(digits: str) -> Fraction:
        if len(digits) > _MAX_NUMBER_LENGTH:
            raise ValueError(f"a number has more than {_MAX_NUMBER_LENGTH} digits")
        return Fraction(int(digits))
