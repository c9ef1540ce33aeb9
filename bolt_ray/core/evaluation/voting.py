"""Votes of sampled answers: those that are the same answer in another form vote together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

SameAnswers = Callable[[Sequence[tuple[str, str]]], Sequence[bool]]
"""Whether the answers of each pair are equal."""

MAX_FORMS = 16
"""Different answers of a problem that are compared, the most frequent ones: each pair takes some 20 ms."""

_NUMBER = re.compile(r"-?\d+(?:/\d+)?%?")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


def merge_equal(problems: Sequence[Sequence[str | None]], same: SameAnswers) -> list[list[str | None]]:
    """Every problem's answers with those that are equal written alike, as the most frequent of them.

    Args:
        problems: normalized answers of each problem; None where there is none.
        same: compares pairs; asked for all problems at once, and only of pairs that differ as text, that are not both
            plain numbers, and that hold no word (as mathematics, ``listen`` is ``silent``).
    """
    # Each round places the next different answer of every problem among those already found different.
    forms = [
        [form for form, _ in Counter(answer for answer in answers if answer is not None).most_common(MAX_FORMS)]
        for answers in problems
    ]
    written: list[dict[str, str]] = [{} for _ in problems]
    for turn in range(max(map(len, forms), default=0)):
        asked: list[tuple[int, str, str]] = []
        for number, answers in enumerate(forms):
            if turn < len(answers):
                new = answers[turn]
                asked += [
                    (number, new, old) for old in dict.fromkeys(written[number].values()) if _comparable(new, old)
                ]
                written[number][new] = new
        found = same([(new, old) for _, new, old in asked]) if asked else []
        for (number, new, old), equal in zip(asked, found, strict=True):
            if equal and written[number][new] == new:
                written[number][new] = old
    return [
        [None if answer is None else forms_of.get(answer, answer) for answer in answers]
        for answers, forms_of in zip(problems, written, strict=True)
    ]


def _comparable(one: str, other: str) -> bool:
    return not (_NUMBER.fullmatch(one) and _NUMBER.fullmatch(other)) and not any(map(_WORD.search, (one, other)))
