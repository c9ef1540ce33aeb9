"""The ``math`` reward: is the completion's answer mathematically equal to the reference?

Parsing and comparing are math-verify's. It interrupts itself with ``signal.alarm``, which works in a main
thread only; reward processes score in theirs. What the alarm cannot stop is stopped by the process's own timeout.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bolt_ray.core.evaluation.answers import last_boxed, last_number, last_tagged, marked_answer
from bolt_ray.core.settings import setting
from bolt_ray.rewards.math_steps import steps_share
from bolt_ray.rewards.protocol import RewardInput, Unscored
from bolt_ray.rewards.settings import RewardSettings

_COUNTED = re.compile(
    r"(\$?-?\d[\d,.]*(?:/\d+)?)\s+(?!(?:sin|cos|tan|log|sqrt|mod|and|or|pi|million|billion|trillion|thousand|hundred|dozen|"
    r"percent)\b)[A-Za-z]{3,}(?:\s+[A-Za-z]+)*\.?"
)
"""A number and what is counted: 18 dollars."""
_GSM8K_MARK = "####"


@dataclass(frozen=True, slots=True, kw_only=True)
class MathSettings(RewardSettings):
    """``type: math`` - mathematical equivalence by math-verify."""

    always_within = (0.0, 1.0)

    extract: Literal["auto", "boxed", "last_number"] = setting(
        "auto",
        "where the completion's answer is: the last \\boxed{} (boxed), the last number (last_number), or the last box "
        "or line `#### …`, else what math-verify finds (LaTeX, then plain expressions), else the last number (auto)",
    )
    partial: float = setting(
        0.0,
        "most that a wrong answer earns for right intermediate steps: times the share of the worked solution's results "
        "that the completion arrives at in equations that hold",
        ge=0,
        lt=1,
    )
    solution_column: str = setting(
        "solution",
        "with partial: the metadata column of the worked solution; a row without it: its answer",
        min_length=1,
    )
    unfinished: bool = setting(
        False, "look for an answer in a completion cut at the length limit, and in a \\boxed{ that is not closed, too"
    )
    decimals: int = setting(6, "places to which decimal numbers are compared", ge=0, le=15)
    parse_timeout_s: int = setting(3, "math-verify's own limit on one parse and on one comparison", unit="s", ge=1)

    def right_completion(self, item: RewardInput) -> str | None:
        answer = reference_answer(item.answer)
        return answer if self.extract == "last_number" else f"\\boxed{{{answer}}}"


def reference_answer(answer: str) -> str:
    """The answer proper: what follows the last ``####`` of a worked solution, and of that what is boxed."""
    reference = answer.rsplit(_GSM8K_MARK, 1)[-1].strip()
    return last_boxed(reference) or reference


def _is_number(value: Any) -> bool:
    """Whether what math-verify read is a finite number of sympy's."""
    return bool(getattr(value, "is_number", False)) and bool(getattr(value, "is_finite", False))


def _is_object(reference: str) -> bool:
    """Whether a reference is a JSON object: a nested column taken for an answer."""
    try:
        return isinstance(json.loads(reference), dict)
    except (ValueError, RecursionError):
        return False


class MathReward:
    """1.0 if the completion's answer equals the row's; if not, or if it gives none, 0.0 or ``partial`` of its steps.

    Unscored: the row has no answer, the answer cannot be read, or the comparison took too long.
    """

    settings = MathSettings
    batched = False

    def __init__(self, settings: MathSettings) -> None:
        # Here and not above: settings are read where nothing is scored, and this brings in a computer algebra system.
        import math_verify

        self._math_verify = math_verify
        self._extract = settings.extract
        self._unfinished = settings.unfinished
        self._partial = settings.partial
        self._solution_column = settings.solution_column
        self._decimals = settings.decimals
        self._timeout_s = settings.parse_timeout_s
        logging.getLogger("math_verify").setLevel(logging.ERROR)

    def score(self, inputs: Sequence[RewardInput]) -> list[float | Unscored]:
        return [self._score_one(item) for item in inputs]

    def _score_one(self, item: RewardInput) -> float | Unscored:
        reference = reference_answer(item.answer)
        if not reference:
            return Unscored("no_answer", "the row has no reference answer")
        started = time.monotonic()
        # Math-verify would read an object as some expression, which no completion gives.
        gold = [] if _is_object(reference) else self._parse_answer(reference)
        if not gold:
            return Unscored("bad_answer", f"the reference answer {reference!r} cannot be read")
        found = self._find(item)
        equal = found and self._math_verify.verify(
            gold, found, float_rounding=self._decimals, timeout_seconds=self._timeout_s, strict=True
        )
        if equal and self._agree_where_small(gold, found):
            return 1.0
        if time.monotonic() - started >= self._timeout_s:
            return Unscored("timeout", f"math-verify did not finish within {self._timeout_s} s")
        if not self._partial:
            return 0.0
        return self._partial * steps_share(
            item.completion, str(item.metadata.get(self._solution_column) or item.answer)
        )

    def _agree_where_small(self, gold: list[Any], found: list[Any]) -> bool:
        """Whether numbers too small for ``decimals`` agree to as many digits: 1e-34 is not 6e-34."""
        if not (_is_number(gold[0]) and _is_number(found[0])):
            return True
        one, other = complex(gold[0]), complex(found[0])
        limit, largest = 10.0**-self._decimals, max(abs(one), abs(other))
        return min(abs(one), abs(other)) >= limit or abs(one - other) <= limit * largest

    def _find(self, item: RewardInput) -> list[Any]:
        """The completion's answer as math-verify's candidates; [] if it has none."""
        if item.truncated and not self._unfinished:
            return []
        whole = item.prefill + item.completion
        tagged = last_tagged(whole)
        text = whole if tagged is None else tagged
        if self._extract != "last_number":
            marked = last_boxed(text) if self._extract == "boxed" else marked_answer(text)
            if marked:
                return self._parse_answer(marked)
            if self._extract == "boxed" or (marked == "" and not self._unfinished):
                return []
            found = self._parse(text)
            if found:
                return found
        number = last_number(text)
        return self._parse_answer(number) if number else []

    def _parse_answer(self, answer: str) -> list[Any]:
        """A text that is an answer and nothing else."""
        answer = answer.replace("\\$", "").strip("* ")
        counted = _COUNTED.fullmatch(answer)
        if counted:  # math-verify would multiply the letters of "18 dollars"
            answer = counted.group(1)
        if "$" in answer.strip("$") or "\\(" in answer or "\\[" in answer:
            return self._parse(answer)
        plain = answer.strip("$").strip()
        escaped = re.sub(r"(?<!\\)%", r"\\%", plain)
        return self._parse(f"${escaped}$") or self._parse(plain)

    def _parse(self, text: str) -> list[Any]:
        return list(
            self._math_verify.parse(
                text,
                extraction_config=[
                    self._math_verify.LatexExtractionConfig(boxed_match_priority=0),
                    self._math_verify.ExprExtractionConfig(),
                ],
                parsing_timeout=self._timeout_s,
            )
        )
