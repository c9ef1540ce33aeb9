"""Arithmetic problems with exact answers, the worked solution of each, and the check of an answer.

A prompt is an expression and an equals sign. A completion is a scratchpad, which continues the chain of equalities
one operation at a time, innermost and leftmost first, and then the answer in place of the last link:

    prompt      12*(3-5)/36=
    completion  12*-2/36=-24/36<answer>-2/3</answer>

Everything between two equals signs is written in the syntax of ``expressions`` and has the value of the prompt.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from bolt_ray.tasks.arithmetic.expressions import (
    BINARY_OPERATORS,
    UNARY_OPERATORS,
    Binary,
    BinaryOperator,
    Expression,
    Number,
    Unary,
    UnaryOperator,
    apply_binary,
    apply_unary,
    count_operations,
    parse,
    reduce_once,
    render,
    value_of,
)
from bolt_ray.tasks.arithmetic.settings import ProblemSettings

ANSWER_OPEN = "<answer>"
ANSWER_CLOSE = "</answer>"
STEP_SEPARATOR = "="
# Part of every cache key. Raised whenever the code changes what the same settings produce: older cached models and
# problem files are then not used.
RECIPE = 5

_ANSWER = re.compile(r"<answer>\s*(-?[0-9]{1,64})(?:/([0-9]{1,64}))?\s*</answer>")
_RATIONAL = re.compile(r"\s*(-?[0-9]{1,64})(?:/([0-9]{1,64}))?\s*")
_HELD_OUT_ONE_IN = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One problem.

    Attributes:
        prompt: the expression and "=".
        scratchpad: the expression after each operation but the last, separated by "="; empty for one operation.
        answer: the exact value, "-1/3" or "12", in lowest terms.
        depth: operations nested in one another.
        digits: digits of the longest number in the expression.
        operations: number of operations.
    """

    prompt: str
    scratchpad: str
    answer: str
    depth: int
    digits: int
    operations: int

    @property
    def expression(self) -> str:
        return self.prompt.removesuffix("=")

    @property
    def completion(self) -> str:
        """The demonstration with worked steps: scratchpad and answer."""
        return f"{self.scratchpad}{ANSWER_OPEN}{self.answer}{ANSWER_CLOSE}"

    @property
    def answer_only_completion(self) -> str:
        """The demonstration without worked steps: the right answer alone."""
        return f"{ANSWER_OPEN}{self.answer}{ANSWER_CLOSE}"


class _TreeBuilder:
    """Builds random expressions; each node carries its value so that nothing is divided by zero."""

    def __init__(self, *, settings: ProblemSettings, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng

    def operation(self, depth: int) -> tuple[Expression, Fraction]:
        """An expression of exactly this depth, from 1, and its value."""
        if self._rng.random() < self._settings.unary_fraction:
            operator: UnaryOperator = self._rng.choice(UNARY_OPERATORS)
            operand, value = self._expression(depth - 1)
            return Unary(operator, operand), apply_unary(operator, value)
        # One side has the full depth, the other any depth below it, a number most often.
        depths = [depth - 1, min(self._rng.randrange(depth), self._rng.randrange(depth))]
        self._rng.shuffle(depths)
        left, left_value = self._expression(depths[0])
        right, right_value = self._expression(depths[1])
        operators = BINARY_OPERATORS if right_value != 0 else BINARY_OPERATORS[:3]
        binary_operator: BinaryOperator = self._rng.choice(operators)
        return Binary(binary_operator, left, right), apply_binary(binary_operator, left_value, right_value)

    def _expression(self, depth: int) -> tuple[Expression, Fraction]:
        if depth > 0:
            return self.operation(depth)
        digits = self._rng.randint(1, self._settings.max_digits)
        number = Fraction(self._rng.randrange(10 ** (digits - 1) if digits > 1 else 0, 10**digits))
        if self._rng.random() < self._settings.negative_fraction:
            number = -number
        return Number(number), number


def _problem(tree: Expression, *, depth: int, limit: int) -> Problem | None:
    """The problem of a tree; None if a result's numerator or denominator reaches ``limit``."""
    texts = [render(tree)]
    digits = max(len(digits) for digits in re.findall("[0-9]+", texts[0]))
    operations = 0
    while not isinstance(tree, Number):
        tree = reduce_once(tree)
        operations += 1
        text = render(tree)
        if any(int(number) >= limit for number in re.findall("[0-9]+", text)):
            return None
        # Dividing 2 by 3 gives 2/3: nothing new to write.
        if text != texts[-1] and not isinstance(tree, Number):
            texts.append(text)
    return Problem(
        prompt=f"{texts[0]}=",
        scratchpad=STEP_SEPARATOR.join(texts[1:]),
        answer=str(tree.value),
        depth=depth,
        digits=digits,
        operations=operations,
    )


def generate_problems(settings: ProblemSettings, *, seed: int, held_out: bool = False) -> Iterator[Problem]:
    """An endless stream of random problems, the same for the same seed.

    The held-out problems are the sixteenth of all prompts whose digest says so: whatever the seeds, a prompt
    drawn with ``held_out`` is never drawn without it.
    """
    rng = random.Random(f"{seed} {held_out}")
    builder = _TreeBuilder(settings=settings, rng=rng)
    limit = 10**settings.result_digits
    while True:
        # The deeper the more there are: single operations on few digits would soon repeat.
        depth = max(rng.randint(1, settings.max_depth), rng.randint(1, settings.max_depth))
        tree, _ = builder.operation(depth)
        problem = _problem(tree, depth=depth, limit=limit)
        if problem is not None and is_held_out(problem.prompt) == held_out:
            yield problem


def is_held_out(prompt: str) -> bool:
    """Whether a prompt belongs to the held-out sixteenth of all prompts."""
    digest = hashlib.blake2b(prompt.encode(), digest_size=8, person=b"arithmetic").digest()
    return int.from_bytes(digest, "big") % _HELD_OUT_ONE_IN == 0


def is_correct(completion_text: str, answer: str) -> bool:
    """Whether a completion's answer equals the reference as a rational number (2/4 equals 1/2).

    A completion with no answer, with more than one, or with one that is not a number is wrong.

    Raises:
        ValueError: the reference answer is not a number.
    """
    expected = _rational(_RATIONAL.fullmatch(answer))
    if expected is None:
        raise ValueError(f"the reference answer {answer!r} is not an integer or a fraction such as -1/3")
    if completion_text.count(ANSWER_OPEN) != 1:
        return False
    return _rational(_ANSWER.search(completion_text)) == expected


def right_steps(prompt: str, completion_text: str) -> float:
    """Share of a prompt's operations that a completion's scratchpad carries out before its first mistake, in [0, 1].

    A link of the chain counts if it has the prompt's value and fewer operations than the link before it.
    """
    try:
        tree = parse(prompt.strip().removesuffix(STEP_SEPARATOR))
        value = value_of(tree)
    except ValueError:
        return 0.0
    operations = left = count_operations(tree)
    for link in completion_text.partition(ANSWER_OPEN)[0].split(STEP_SEPARATOR):
        try:
            tree = parse(link)
            right = value_of(tree) == value and count_operations(tree) < left
        except ValueError:
            break
        if not right:
            break
        left = count_operations(tree)
    return (operations - left) / operations if operations else 0.0


def _rational(found: re.Match[str] | None) -> Fraction | None:
    if found is None:
        return None
    denominator = int(found.group(2) or 1)
    return None if denominator == 0 else Fraction(int(found.group(1)), denominator)
