"""The library's scorers as a reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bolt_ray.rewards.protocol import RewardInput, Unscored
from bolt_ray.rewards.registry import build_reward
from bolt_ray.tasks.reasoning_gym.dataset import TaskProblems, ensure_problems
from bolt_ray.tasks.reasoning_gym.library import make_task
from bolt_ray.tasks.reasoning_gym.reward import ReasoningGymSettings, answer_of, calls_nothing

TASKS = (
    "chain_sum",
    "gcd",
    "letter_counting",
    "spell_backward",
    "simple_equations",
    "base_conversion",
    "number_sorting",
    "n_queens",
    "polynomial_multiplication",
    "simple_integration",
    "spiral_matrix",
    "word_ladder",
)

pytest.importorskip("reasoning_gym", reason="an optional extra: see requirements/extra.in")


def item(row: dict[str, Any], completion: str, **given: Any) -> RewardInput:
    metadata = {key: row[key] for key in ("task", "options", "metadata")}
    return RewardInput(prompt=row["prompt"], completion=completion, answer=row["answer"], metadata=metadata, **given)


def score(completion: RewardInput, *, strict: bool = False) -> Any:
    (value,) = build_reward(ReasoningGymSettings(type="reasoning_gym", strict=strict)).score([completion])
    return value


def first_rows(task: str, cache: Path, *, size: int = 3) -> list[dict[str, Any]]:
    wanted = TaskProblems(task=task, size=size, seed=0, options={})
    path = ensure_problems(wanted, cache_dir=cache, on_progress=lambda done: None)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("task", TASKS)
def test_a_reference_answer_is_worth_one_and_nonsense_less(task: str, tmp_path: Path) -> None:
    for row in first_rows(task, tmp_path):
        assert score(item(row, row["answer"])) == 1.0
        assert score(item(row, f"so\n<answer>{row['answer']}</answer>")) == 1.0
        assert score(item(row, f"<answer>nonsense {row['answer'][::-1]} 7</answer>")) < 1.0


def test_form_earns_something_unless_strict(tmp_path: Path) -> None:
    row = first_rows("spiral_matrix", tmp_path)[0]
    as_list = str(row["answer"].split()).replace("'", "")
    assert score(item(row, as_list)) == 0.1
    assert score(item(row, as_list), strict=True) == 0.0
    assert score(item(row, row["answer"]), strict=True) == 1.0


def test_where_the_answer_is() -> None:
    assert answer_of("<answer>1</answer> or <answer> 2 </answer>", truncated=False) == "2"
    assert answer_of("so \\boxed{3}", truncated=True) == "3"
    assert answer_of(" a\nb \n", truncated=False) == "a\nb"
    assert answer_of("12", truncated=True) is None, "cut off"
    assert answer_of(" \n", truncated=False) is None
    assert answer_of("<answer></answer>", truncated=False) is None


def test_a_row_of_another_data_set_is_unscored() -> None:
    for metadata in ({}, {"task": "gcd"}, {"task": "gcd", "options": [], "metadata": {}}):
        verdict = score(RewardInput(prompt="1+1=", completion="2", answer="2", metadata=metadata))
        assert isinstance(verdict, Unscored) and verdict.kind == "wrong_row"


@pytest.mark.parametrize(
    "answer",
    [
        '__import__("pathlib").Path(MARK).touch()',
        "open(MARK, chr(119))",
        "(open)(MARK)",
        "[open][0](MARK)",
        "(lambda: open(MARK))()",
        "(exit#\n())",
        "exit ()",
        "S(MARK)",
        "sympify(MARK)",
        "x.__class__",
        "f(x)",
        "sin('x')",
    ],
)
def test_an_answer_that_could_call_something_is_worth_nothing(answer: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    text = answer.replace("MARK", repr(str(mark)))
    assert not calls_nothing(text)
    for task in ("n_queens", "string_insertion", "countdown", "simple_integration"):
        row = first_rows(task, tmp_path, size=1)[0]
        assert score(item(row, text)) == 0.0
    assert not mark.exists()


def test_mathematics_calls_nothing() -> None:
    for answer in ("x**2/2 + sin(2*x) + C", "(3+4)*(5-2)", "24", "log(Abs(x))", "-2*x", "3!"):
        assert calls_nothing(answer)


def test_every_scorer_that_evaluates_is_known_to_the_guard() -> None:
    import inspect
    import re

    from reasoning_gym.factory import DATASETS

    from bolt_ray.tasks.reasoning_gym import reward

    evaluates = re.compile(r"\b(?:eval|exec|parse_expr|sympify|compile|simplify)\s*\(")
    for name in sorted(set(DATASETS) - {"composite", "boxnet"}):
        source = inspect.getsource(DATASETS[name][0].score_answer)
        if evaluates.search(source):
            assert not reward._is_harmless("open(1)", make_task(name, seed=0, options={})), name


def test_an_answer_of_another_form_is_wrong_and_nan_is_no_answer(tmp_path: Path) -> None:
    factors = first_rows("prime_factorization", tmp_path)[0]
    assert [score(item(factors, text)) for text in ("abc", "[1,2]", "1,2,3")] == [0.0, 0.0, 0.0]
    assert score(item(first_rows("complex_arithmetic", tmp_path)[0], "<answer>nan</answer>")) == 0.0
    row = first_rows("chain_sum", tmp_path)[0]
    assert score(item(row, f"{row['answer']}</answer>", prefill="<answer>")) == 1.0
