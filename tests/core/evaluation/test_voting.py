"""Which answers vote together, and which pairs are asked about."""

from __future__ import annotations

from collections.abc import Sequence

from bolt_ray.core.evaluation.voting import merge_equal

HALVES = {"1/2", r"\frac{1}{2}", r"\frac12", r"2^{-1}"}


def test_equal_answers_are_written_as_the_first_of_them() -> None:
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
    half = r"\frac{1}{2}"
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
        [("1/2", half), ("1+x", "x+1")],
        [("3", half), ("y", "x+1")],
        [(r"\frac12", half), (r"\frac12", "3")],
    ]
