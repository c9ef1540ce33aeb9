"""Which answers vote together, and which pairs are asked about."""

from __future__ import annotations

from collections.abc import Sequence

from bolt_ray.core.evaluation.voting import MAX_FORMS, merge_equal

HALVES = {"1/2", r"\frac{1}{2}", r"\frac12", r"2^{-1}"}


def test_equal_answers_are_written_as_the_most_frequent_of_them() -> None:
    asked: list[list[tuple[str, str]]] = []

    def same(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        asked.append(list(pairs))
        return [set(pair) <= HALVES or set(pair) == {"x+1", "1+x"} for pair in pairs]

    merged = merge_equal(
        [
            [r"\frac{1}{2}", "1/2", None, "3", r"\frac12", "1/2"],
            ["x+1", "1+x", "y"],
            ["5", "7", "7"],
            ["listen", "silent"],
            [None],
            [],
        ],
        same,
    )
    half = "1/2"  # the most frequent of its forms
    assert merged == [
        [half, half, None, "3", half, half],
        ["x+1", "x+1", "y"],
        ["5", "7", "7"],
        ["listen", "silent"],
        [None],
        [],
    ]
    # One question per round for all problems; numbers, words and equal texts are not asked about.
    assert asked == [
        [(r"\frac{1}{2}", half), ("1+x", "x+1")],
        [("y", "x+1")],
        [(r"\frac12", half), (r"\frac12", "3")],
    ]


def test_of_many_different_answers_the_most_frequent_are_compared() -> None:
    answers = [f"x^{number}" for number in range(MAX_FORMS + 5)] * 2 + ["rare+1"]
    pairs: list[tuple[str, str]] = []

    def same(asked: Sequence[tuple[str, str]]) -> list[bool]:
        pairs.extend(asked)
        return [False] * len(asked)

    assert merge_equal([answers], same) == [answers]
    assert len(pairs) == MAX_FORMS * (MAX_FORMS - 1) // 2
    assert not any("rare+1" in pair for pair in pairs)
