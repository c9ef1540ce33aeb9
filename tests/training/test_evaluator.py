"""An evaluation's numbers against a table worked out by hand, the requests it makes, and its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support.fakes import FakeScorers, answer, no_two_alike

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.scorer_actor import ScoringRequest
from bolt_ray.commands.evaluate.predictions import write_predictions
from bolt_ray.commands.evaluate.report import EvaluationReport, compare_with_first
from bolt_ray.commands.model_source import ModelSource
from bolt_ray.core.errors import StallError
from bolt_ray.core.evaluation.summary import Estimate, EvaluationResult, Success, summarize
from bolt_ray.core.evaluation.voting import SameAnswers
from bolt_ray.core.records import (
    Completion,
    DrawnPrompt,
    GenerationRequest,
    Outcome,
    Prompt,
    ScoredCompletion,
    UnscoredCompletion,
    UnscoredReason,
    fields_of,
)
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.training.completions import CompletionService, request_seed
from bolt_ray.training.evaluator import Evaluator
from bolt_ray.training.settings import EvalSettings


def problem(row: int, source: str = "a") -> Prompt:
    return Prompt(row=row, key=f"key-{row}", prompt=f"{row}+1=", answer=str(row + 1), source=source)


def drawn(row: int, source: str) -> DrawnPrompt:
    return DrawnPrompt(group_id=row, prompt=problem(row, source), token_ids=np.array([5, 6 + row], dtype=np.int32))


def outcome(text: str, reward: float | None, *, tokens: int = 2, cut: bool = False) -> Outcome:
    completion: dict[str, Any] = {
        "request_id": -1,
        "token_ids": np.zeros(tokens, dtype=np.int32),
        "logprobs": np.zeros(tokens, dtype=np.float32),
        "text": text,
        "truncated": cut,
        "oldest_version": 0,
        "newest_version": 0,
    }
    if reward is None:
        return UnscoredCompletion(**completion, reason=UnscoredReason(reward="math", kind="timeout", detail="3 s"))
    return ScoredCompletion(**completion, reward=reward, tracker_reward=reward, parts={"math": reward})


def summary_of(
    groups: Sequence[Sequence[Outcome]],
    *,
    threshold: float = 1.0,
    k: int | None = None,
    same_answers: SameAnswers = no_two_alike,
) -> EvaluationResult:
    """Of problems 0, 1, …, from the third on of source "b"."""
    problems = [problem(row, "a" if row < 2 else "b") for row in range(len(groups))]
    return summarize(problems, groups, success=Success(reward=threshold), same_answers=same_answers, k=k)


def four_samples() -> list[list[Outcome]]:
    """Problem 0: 3 of 4 right; 1: 1 of 4 right, but the majority is wrong; 2: none, one unscored."""
    return [
        [
            outcome("so <answer>1</answer>", 1.0, tokens=4),
            outcome("I say 1", 1.0, tokens=2),
            outcome("<answer>9</answer>", 0.0, tokens=3),
            outcome("1.0", 1.0, tokens=3),
        ],
        [
            outcome("7", 0.0, tokens=1),
            outcome(r"\boxed{7}", 0.0, tokens=1),
            outcome("2", 1.0, tokens=1),
            outcome(" ", 0.0, tokens=1),
        ],
        [
            outcome("5", None, tokens=5),
            outcome("5", 0.5, tokens=5),
            outcome("6", 0.0, tokens=5),
            outcome("5", 0.0, tokens=5, cut=True),
        ],
    ]


def test_several_samples_by_hand() -> None:
    result = summary_of(four_samples(), k=2)
    overall = result.overall
    assert (overall.num_problems, overall.num_completions, overall.k) == (3, 12, 2)
    assert overall.pass_at_1.value == pytest.approx((3 / 4 + 1 / 4 + 0) / 3)
    # 1 - C(n-c, 2)/C(4, 2): 1 - 0/6, 1 - 3/6, 1 - 6/6.
    assert overall.pass_at_k is not None
    assert overall.pass_at_k.value == pytest.approx((1 + 0.5 + 0) / 3)
    # Of the first two answers: 1 and 1 are right; 7 and 7 wrong; 5 and 5 wrong.
    assert overall.maj_at_k is not None
    assert overall.maj_at_k.value == pytest.approx(1 / 3)
    # Eleven scored completions: rewards 3 + 1 + 0.5.
    assert overall.mean_reward == pytest.approx(4.5 / 11)
    assert overall.mean_length == pytest.approx((12 + 4 + 20) / 12)
    assert overall.truncated_fraction == pytest.approx(1 / 12)
    assert overall.unscored_fraction == pytest.approx(1 / 12)
    assert (result.score.correct, result.score.total, str(result.score)) == (4, 12, "33.3% (4/12)")
    assert result.problem_scores() == [0.75, 0.25, 0.0]
    assert result.problem_scores(2) == pytest.approx([1.0, 0.5, 0.0])


def test_votes_go_by_the_answer_not_by_the_text() -> None:
    groups = [four_samples()[0]]
    result = summary_of(groups)
    # Three ways to write 1 outvote one 9; counted by text, four answers would tie at 3/4.
    assert result.overall.k == 4
    assert result.overall.maj_at_k is not None
    assert result.overall.maj_at_k.value == 1.0


def test_answers_that_are_equal_mathematically_vote_together() -> None:
    written = [r"\frac{1}{2}", r"\dfrac{1}{2}", r"\frac12", "0.5", "x", "x"]
    group = [outcome(f"\\boxed{{{text}}}", float(place < 4)) for place, text in enumerate(written)]

    def halves(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        return [not {"x"} & set(pair) for pair in pairs]

    assert [summary_of([group], same_answers=same).overall.maj_at_k for same in (no_two_alike, halves)] == [
        Estimate(value=0.0, low=0.0, high=pytest.approx(0.793, abs=1e-3)),
        Estimate(value=1.0, low=pytest.approx(0.207, abs=1e-3), high=1.0),
    ]


def test_a_sum_of_weights_that_add_up_to_one_in_decimals_only_is_a_success() -> None:
    perfect = 0.7 * 1.0 + 0.2 * 1.0 + 0.1 * 1.0
    assert perfect < 1.0
    assert summary_of([[outcome("x", perfect)]]).score.correct == 1
    assert summary_of([[outcome("x", 0.999)]]).score.correct == 0


def test_one_reward_can_mean_success_where_it_applies() -> None:
    right = ScoredCompletion(**{**fields_of(outcome("x", 0.4)), "parts": {"math": 1.0, "style": -0.6}})
    wrong = ScoredCompletion(**{**fields_of(outcome("x", 1.0)), "parts": {"math": 0.0, "style": 1.0}})
    of_another_dataset = ScoredCompletion(**{**fields_of(outcome("x", 1.0)), "parts": {"style": 1.0}})
    by_math = Success(reward=1.0, part="math")
    assert [by_math.holds(item) for item in (right, wrong, of_another_dataset)] == [True, False, True]
    assert [Success(reward=1.0).holds(item) for item in (right, wrong)] == [False, True]


def test_the_bootstrap_resamples_problems() -> None:
    result = summary_of(four_samples())
    interval = result.overall.pass_at_1
    # Three problems: a resample of one problem alone has chance 1/27 > 2.5 %, so the ends are the extremes.
    assert (interval.low, interval.high) == (0.0, 0.75)
    assert summary_of(four_samples()).overall.pass_at_1 == interval


def test_one_sample_has_wilson_and_no_k() -> None:
    groups = [[outcome("x", 1.0 if row < 5 else 0.0)] for row in range(10)]
    result = summary_of(groups)
    # Wilson at 5 of 10 and z = 1.96: (0.5 + 0.19207 ± 0.36489)/1.38415.
    assert (result.overall.pass_at_1.low, result.overall.pass_at_1.high) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    assert result.overall.pass_at_k is None
    assert "eval/pass@k" not in result.metrics
    assert result.metrics["eval/pass@1"] == 0.5


def test_problems_that_all_agree_keep_an_interval() -> None:
    groups = [[outcome("x", 0.0), outcome("x", 0.0)] for row in range(20)]
    interval = summary_of(groups).overall.pass_at_1
    # A bootstrap of twenty zeros would claim certainty; Wilson at 0 of 20: z²/(20 + z²).
    assert (interval.low, interval.high) == (0.0, pytest.approx(3.8415 / 23.8415, abs=1e-4))


def test_every_source_has_its_numbers() -> None:
    result = summary_of(four_samples())
    assert list(result.by_source) == ["a", "b"]
    assert result.by_source["a"].pass_at_1.value == 0.5
    assert result.by_source["b"].pass_at_1.value == 0.0
    assert result.by_source["b"].mean_length == 5.0
    assert result.metrics["eval/a/pass@1"] == 0.5
    assert result.metrics["eval/b/mean_length"] == 5.0
    alone = summary_of(four_samples()[:2])
    assert not [name for name in alone.metrics if name.startswith("eval/a/")]


def test_the_threshold_decides() -> None:
    assert summary_of(four_samples(), threshold=0.5).by_source["b"].pass_at_1.value == 0.25


def test_shaping_does_not_make_an_answer_wrong() -> None:
    long = outcome("1", 1.0)
    assert isinstance(long, ScoredCompletion)
    shaped = replace(long, reward=0.4, tracker_reward=1.0)
    assert summary_of([[shaped]]).overall.pass_at_1.value == 1.0


def test_nothing_scored() -> None:
    result = summary_of([[outcome("x", None)]])
    assert result.overall.mean_reward is None
    assert (result.score.value, result.metrics["eval/unscored_fraction"]) == (0.0, 1.0)


def test_empty_evaluations_are_refused() -> None:
    for groups in ([], [[]], [[outcome("x", 1.0)], []]):
        with pytest.raises(ValueError, match="at least one completion of every problem"):
            summary_of(groups)
    with pytest.raises(ValueError, match="1 <= k <= samples"):
        summary_of([[outcome("x", 1.0)]], k=2)


def test_two_models_on_the_same_problems() -> None:
    worse = summary_of([[outcome("x", 0.0)] for row in range(40)])
    better = summary_of([[outcome("x", float(row % 2))] for row in range(40)])
    compared = compare_with_first({"worse": worse, "better": better})
    assert list(compared) == ["better"]
    assert list(compared["better"]) == ["pass@1"]
    numbers = compared["better"]["pass@1"]
    assert (numbers.mean_a, numbers.mean_b, numbers.difference, numbers.num_prompts) == (0.0, 0.5, 0.5, 40)
    assert numbers.significant
    assert compare_with_first({"worse": worse}) == {}
    several = summary_of(four_samples(), k=2)
    assert list(compare_with_first({"x": several, "y": several})["y"]) == ["pass@1", "pass@2"]


def test_the_report_in_eighty_columns_and_as_json(tmp_path: Path) -> None:
    result = summary_of(four_samples(), k=2)
    results = {"first": result, "second[x]": result}
    report = EvaluationReport(
        results=results,
        comparisons=compare_with_first(results),
        sources=[ModelSource(label=label, model=f"/{label}") for label in (*results, "not reached")],
    )
    console = Console(width=80, record=True, file=(tmp_path / "shown").open("w"))
    report.print(console)
    shown = console.export_text()
    for text in ("second[x]: 4 sample(s)", "pass@2", "maj@2", "33.3%", "50.0–100.0", "pass@1 +0.0 points"):
        assert text in shown, text
    assert "…" not in shown
    first_table = shown.partition("second")[0].splitlines()
    assert [line.split()[0] for line in first_table if "%" in line and "sample" not in line] == ["a", "b", "all"]
    report.write(tmp_path / "summary.json", settings={"seed": 3})
    tree = json.loads((tmp_path / "summary.json").read_text())
    assert list(tree["models"]) == ["first", "second[x]"]
    assert tree["models"]["first"]["by_source"]["b"]["num_problems"] == 1
    assert tree["against_first"]["second[x]"]["pass@2"]["difference"] == 0.0
    assert tree["eval"] == {"seed": 3}


def test_predictions_as_jsonl_and_parquet(tmp_path: Path) -> None:
    groups = four_samples()
    chat = Prompt(row=3, key="chat", prompt=[{"role": "user", "content": "π?"}], source="c")
    groups.append(
        [replace(outcome("3\n", None, tokens=1, cut=True), reason=UnscoredReason(reward="own", kind="crash"))]
    )
    prompts = [problem(0), problem(1), problem(2, "b"), chat]
    write_predictions(
        summarize(prompts, groups, success=Success(reward=1.0), same_answers=no_two_alike), tmp_path, name="model"
    )
    rows = [json.loads(line) for line in (tmp_path / "model.jsonl").read_text().splitlines()]
    assert len(rows) == 13
    assert [row["source"] for row in rows[::4]] == ["a", "a", "b", "c"]
    assert rows[8]["unscored"] == "math: timeout: 3 s"
    assert rows[1] == {
        "prompt_id": "key-0",
        "prompt": "0+1=",
        "answer": "1",
        "source": "a",
        "sample_index": 1,
        "completion": "I say 1",
        "extracted_answer": "1",
        "correct": True,
        "reward": 1.0,
        "parts": {"math": 1.0},
        "num_tokens": 2,
        "truncated": False,
        "unscored": None,
    }
    assert json.loads(rows[12]["prompt"]) == [{"role": "user", "content": "π?"}]
    assert (rows[12]["reward"], rows[12]["parts"], rows[12]["unscored"]) == (None, {}, "own: crash")
    table = pq.read_table(tmp_path / "model.parquet").to_pylist()
    assert [row | {"parts": dict(row["parts"])} for row in table] == rows


class FakeGenerators:
    """Answers everything at once, last request first, with the sampling it was given; or nothing at all."""

    def __init__(self, *, silent: bool = False) -> None:
        self.silent = silent
        self.waiting: list[GenerationRequest] = []
        self.seen: list[GenerationRequest] = []
        self.replacements: list[str] = []
        self.processes: list[ProcessInfo] = []
        self.progress = 0
        self.sampling: list[SamplingSettings | None] = []

    @property
    def outstanding(self) -> int:
        return len(self.waiting)

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingSettings | None = None) -> None:
        self.waiting += requests
        self.seen += requests
        self.sampling.append(sampling)

    def poll(self, timeout_s: float) -> list[Completion]:
        if self.silent:
            return []
        done, self.waiting = self.waiting[::-1], []
        return [answer(request, oldest=4) for request in done]


def only_first_samples_are_right(request: ScoringRequest) -> float:
    # Three samples a problem, numbered on from problem to problem.
    return float((-1 - request.request_id) % 3 == 0)


def evaluator(
    generators: FakeGenerators, *, scorers: FakeScorers | None = None, k: int | None = None, stall_s: float = 60.0
) -> Evaluator:
    scorers = scorers or FakeScorers(only_first_samples_are_right)
    return Evaluator(
        service=CompletionService(generators=generators, scorers=scorers),
        problems=[drawn(0, "a"), drawn(1, "b")],
        sampling=SamplingSettings(temperature=0.5),
        settings=EvalSettings(num_samples=3, seed=11),
        stall_s=stall_s,
        same_answers=no_two_alike,
        k=k,
    )


def test_samples_come_back_in_order_whatever_the_order_of_arrival() -> None:
    generators = FakeGenerators()
    subject = evaluator(generators, k=2)
    seen: list[tuple[int, int]] = []
    result = subject.run(pump=subject._service.pump, on_progress=lambda done, total: seen.append((done, total)))
    # The fake answers with the request's seed.
    texts = [[item.text for item in group] for group in result.outcomes]
    assert texts == [[str(request_seed(11, n)) for n in numbers] for numbers in ((0, 1, 2), (3, 4, 5))]
    assert [prompt.key for prompt in result.prompts] == ["key-0", "key-1"]
    assert result.rights == ((True, False, False), (True, False, False))
    assert (result.overall.k, result.score.correct, result.score.total) == (2, 2, 6)
    assert seen[-1] == (6, 6)
    assert generators.sampling == [SamplingSettings(temperature=0.5)]
    assert [request.token_ids.tolist() for request in generators.seen] == [[5, 6]] * 3 + [[5, 7]] * 3
    assert {request.kind for request in generators.seen} == {"eval"}


def test_every_evaluation_has_the_same_seeds() -> None:
    seeds = []
    for _ in range(2):
        generators = FakeGenerators()
        subject = evaluator(generators)
        subject.run(pump=subject._service.pump)
        seeds.append([request.seed for request in generators.seen])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 6


def test_rewards_know_that_it_is_an_evaluation() -> None:
    generators, scorers = FakeGenerators(), FakeScorers(only_first_samples_are_right)
    subject = evaluator(generators, scorers=scorers)
    subject.run(pump=subject._service.pump)
    assert {(request.input.evaluation, request.input.source) for request in scorers.seen} == {(True, "a"), (True, "b")}
    assert {(request.input.prompt, request.input.answer) for request in scorers.seen} == {("0+1=", "1"), ("1+1=", "2")}


def test_silence_ends_in_an_error() -> None:
    subject = evaluator(FakeGenerators(silent=True), stall_s=0.0)
    waited = r"the driver has waited for completions of an evaluation, 0 of 6 are there since \S+ \(0 s\): no token"
    with pytest.raises(StallError, match=waited):
        subject.run(pump=subject._service.pump)


def test_answers_that_grow_are_waited_for() -> None:
    generators = FakeGenerators(silent=True)
    subject = evaluator(generators, stall_s=0.0)

    def pump(timeout_s: float) -> None:
        generators.progress += 1
        generators.silent = generators.progress < 50
        subject._service.pump(timeout_s)

    assert subject.run(pump=pump).score.total == 6


def test_models_that_answer_different_problems_are_compared_on_those_of_both() -> None:
    right, wrong = [outcome("x", 1.0)], [outcome("x", 0.0)]

    def result(rows: Sequence[int], groups: Sequence[Sequence[Outcome]]) -> EvaluationResult:
        prompts = [problem(row) for row in rows]
        return summarize(prompts, groups, success=Success(reward=1.0), same_answers=no_two_alike)

    first = result([0, 1, 2, 3], [right, wrong, wrong, right])
    second = result([1, 2, 3], [right, right, right])
    compared = compare_with_first({"a": first, "b": second, "c": result([7], [right])})
    assert compared["b"]["pass@1"].num_prompts == 3
    assert compared["b"]["pass@1"].difference == pytest.approx(2 / 3)
    assert compared["c"] == {}
