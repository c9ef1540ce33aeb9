"""Reference answers scored against themselves: by which rewards, and what is said of those that are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from support.rewards import reward_spec

from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.references import ReferenceCheck, check_references
from bolt_ray.rewards.settings import RewardSettings


def row(answer: str, source: str = "a") -> RewardInput:
    return RewardInput(prompt="p", completion="", answer=answer, source=source, num_tokens=1)


WRONG = [
    (1, """the reference answer '{"ground_truth": "34", "style": "rule"}' cannot be read"""),
    (3, "the row has no reference answer"),
    (4, """the reference answer '{"ground_truth": "35"}' cannot be read"""),
]


def checks_of(
    specs: Sequence[RewardSettings], rows: Sequence[RewardInput], by_source: Mapping[str, Sequence[str]] | None = None
) -> list[ReferenceCheck]:
    return check_references(
        specs,
        rows,
        place=lambda index: f"line {index + 1}",
        by_source=by_source or {},
        eval_by_source={},
        startup_timeout_s=120.0,
    )


def test_every_way_a_reward_reads_an_answer() -> None:
    answers = {
        "math": ["5", r"\frac{1}{2}", r"so \boxed{7}", "3+4=7 boxes\n#### 7", "$18", "x^2+1"],
        "arithmetic": ["5", "-1/3"],
        "exact": ["any text", "with\nlines"],
        "contains": ["any text"],
    }
    for name, given in answers.items():
        (check,) = checks_of([reward_spec(name=name, type=name)], [row(answer) for answer in given])
        assert (check.reward, check.right, check.total, check.examples) == (name, len(given), len(given), ())
    last = reward_spec(name="math", type="math", options={"extract": "last_number"})
    assert checks_of([last], [row("so #### 12")])[0].right == 1


def test_a_wrong_column_is_told_with_where_it_is_and_what_it_gets() -> None:
    columns = [row('{"ground_truth": "34", "style": "rule"}'), row("12"), row(""), row('{"ground_truth": "35"}')]
    (check,) = checks_of([reward_spec(name="math", type="math")], columns)
    assert (check.right, check.total, check.mostly_wrong) == (1, 4, True)
    assert str(check).splitlines() == [
        "a: 1 of 4 reference answers are right by their reward math",
        *(f"  line {line}: the answer {columns[line - 1].answer!r} gets no verdict ({why})" for line, why in WRONG),
    ]


def test_a_reward_that_does_not_apply_or_asks_for_no_answer_says_nothing() -> None:
    specs = [
        reward_spec(name="math", type="math"),
        reward_spec(name="exact", type="exact"),
        reward_spec(name="words", type="contains", options={"texts": ["a"]}),
        reward_spec(name="format", type="format"),
    ]
    rows = [row("1"), row("x", "b"), row("y", "b")]
    checks = checks_of(specs, rows, {"a": ["math"], "b": ["exact", "words", "format"]})
    assert [(check.source, check.reward, check.right, check.total) for check in checks] == [
        ("a", "math", 1, 1),
        ("b", "exact", 2, 2),
    ]


def test_labels_of_one_dataset_count_together_and_a_few_rows_prove_nothing() -> None:
    rows = [replace(row("1", source=f"label {place % 3}"), dataset="mixed") for place in range(9)]
    (check,) = checks_of(
        [reward_spec(name="math", type="math")], [*rows, replace(row("$", "label 4"), dataset="mixed")]
    )
    assert (check.source, check.right, check.total, check.mostly_wrong) == ("mixed", 9, 10, False)
    (few,) = checks_of([reward_spec(name="math", type="math")], [row("$")] * 3)
    assert few.mostly_wrong and not few.is_conclusive
