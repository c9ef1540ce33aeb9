"""Problems of a task as a file, and what is said where there can be none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bolt_ray.core.errors import ConfigError, DataError
from bolt_ray.tasks.reasoning_gym.dataset import TaskProblems, ensure_problems

SHORT = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}

pytest.importorskip("reasoning_gym", reason="an optional extra: see requirements/extra.in")


def problems(task: str = "chain_sum", *, size: int = 20, seed: int = 0, **options: Any) -> TaskProblems:
    return TaskProblems(task=task, size=size, seed=seed, options=options)


def rows(wanted: TaskProblems, cache: Path) -> list[dict[str, Any]]:
    path = ensure_problems(wanted, cache_dir=cache, on_progress=lambda done: None)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_is_made_once_for_its_settings(tmp_path: Path) -> None:
    made: list[int] = []
    path = ensure_problems(problems(**SHORT), cache_dir=tmp_path, on_progress=made.append)
    assert made == list(range(1, 21))
    again = ensure_problems(problems(**SHORT), cache_dir=tmp_path, on_progress=made.append)
    assert (again, len(made)) == (path, 20)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert set(found[0]) == {"prompt", "answer", "task", "options", "metadata"}
    assert (found[0]["task"], found[0]["options"]) == ("chain_sum", SHORT)
    assert found[0]["metadata"]["source_dataset"] == "chain_sum"
    assert len({row["prompt"] for row in found}) == 20
    (tmp_path / "elsewhere").mkdir()
    assert rows(problems(**SHORT), tmp_path / "elsewhere") == found, "the same settings give the same rows"
    others = [problems(size=21, **SHORT), problems(seed=1, **SHORT), problems(**SHORT | {"max_terms": 3})]
    assert len({other.address() for other in [*others, problems(**SHORT)]}) == 4


def test_neighboring_seeds_have_problems_of_their_own(tmp_path: Path) -> None:
    first, second = ({row["prompt"] for row in rows(problems(size=200, seed=seed), tmp_path)} for seed in (0, 1))
    assert len(first & second) < 10, "the library numbers the problems of seed 1 as those of seed 0, one further"


def test_problems_of_the_evaluation_are_left_out(tmp_path: Path) -> None:
    held = problems(size=60, seed=1, **SHORT)
    without = TaskProblems(task="chain_sum", size=80, seed=0, options=SHORT, without=(held,))
    plain = {row["prompt"] for row in rows(problems(size=80, **SHORT), tmp_path)}
    evaluated = {row["prompt"] for row in rows(held, tmp_path)}
    trained = {row["prompt"] for row in rows(without, tmp_path)}
    assert plain & evaluated and not trained & evaluated and len(trained) == 80


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (
            problems("chain_sums"),
            r"reasoning_gym/chain_sums: reasoning-gym has no such task; did you mean 'chain_sum'\?",
        ),
        (problems("composite"), "no such task; it has ab, acre, "),
        (problems(min_term=2), r"options\.min_term: chain_sum has no such option; did you mean 'min_terms'\?; it has "),
        (problems(zzz=2), r"chain_sum has no such option; it has min_terms \(2\), max_terms \(6\)"),
        (problems(min_terms=9, max_terms=3), r'chain_sum refuses the options \{"min_terms": 9, "max_terms": 3\}'),
        (problems(size=5000, **SHORT), r"size 5,000 was asked for, and its options give only about \d+ different"),
    ],
)
def test_what_cannot_be_made_is_refused(wanted: TaskProblems, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        rows(wanted, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_option_that_is_a_setting_beside_them_is_told(tmp_path: Path) -> None:
    wanted = TaskProblems(task="gcd", size=3, seed=0, options={"size": 5})
    with pytest.raises(ConfigError, match=r"options\.size: gcd has no such option; it is a setting of the data set"):
        rows(wanted, tmp_path)


def test_problems_that_json_changes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"reasoning_gym/arc_agi: its problems cannot be kept as JSON"):
        rows(problems("arc_agi", size=1), tmp_path)


def test_a_reference_that_its_scorer_does_not_take_is_left_out(tmp_path: Path) -> None:
    assert [row["answer"] for row in rows(problems("graph_color", size=2), tmp_path)] == ["", ""]


def test_a_task_whose_scorer_takes_any_answer_is_refused(tmp_path: Path) -> None:
    wanted = TaskProblems(task="game_of_life_halting", size=3, seed=0, options={})
    with pytest.raises(DataError, match="its scorer takes any answer"):
        ensure_problems(wanted, cache_dir=tmp_path, on_progress=lambda done: None)
