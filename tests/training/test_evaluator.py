"""An evaluation's numbers against a table worked out by hand, the requests it makes, and its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support.fakes import FakeScorers

from bolt_ray.commands.evaluate.predictions import write_predictions
from bolt_ray.commands.evaluate.report import EvaluationReport, compare_with_first
from bolt_ray.commands.model_source import ModelSource
from bolt_ray.core.errors import StallError
from bolt_ray.core.records import (
    Completion,
    DrawnPrompt,
    Prompt,
    RolloutRequest,
    ScoredCompletion,
    UnscoredCompletion,
)
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.training.completions import CompletionService, Outcome
from bolt_ray.training.evaluator import Evaluator, summarize


def drawn(row: int, source: str) -> DrawnPrompt:
    prompt = Prompt(row=row, key=f"key-{row}", prompt=f"{row}+1=", answer=str(row + 1), source=source)
    return DrawnPrompt(draw_id=row, prompt=prompt, token_ids=np.array([5, 6], dtype=np.int32))


def outcome(
    row: int, text: str, reward: float | None, *, source: str = "a", sample: int = 0, tokens: int = 2, cut: bool = False
) -> Outcome:
    request = RolloutRequest(
        request_id=-1 - row,
        drawn=drawn(row, source),
        sample_index=sample,
        v_hat=0.5,
        n_eff=0.0,
        policy_version=0,
        seed=0,
    )
    completion = Completion(
        request=request,
        token_ids=np.zeros(tokens, dtype=np.int32),
        logprobs=np.zeros(tokens, dtype=np.float32),
        text=text,
        truncated=cut,
        oldest_version=0,
        newest_version=0,
    )
    if reward is None:
        return UnscoredCompletion(completion=completion, reason="math: timeout: 3 s")
    return ScoredCompletion(completion=completion, reward=reward, tracker_reward=reward, parts={"math": reward})


def four_samples() -> list[list[Outcome]]:
    """Problem 0: 3 of 4 right; 1: 1 of 4 right, but the majority is wrong; 2: none, one unscored."""
    return [
        [
            outcome(0, "so <answer>1</answer>", 1.0, tokens=4),
            outcome(0, "I say 1", 1.0, sample=1, tokens=2),
            outcome(0, "<answer>9</answer>", 0.0, sample=2, tokens=3),
            outcome(0, "1.0", 1.0, sample=3, tokens=3),
        ],
        [
            outcome(1, "7", 0.0, tokens=1),
            outcome(1, r"\boxed{7}", 0.0, sample=1, tokens=1),
            outcome(1, "2", 1.0, sample=2, tokens=1),
            outcome(1, " ", 0.0, sample=3, tokens=1),
        ],
        [
            outcome(2, "5", None, source="b", tokens=5),
            outcome(2, "5", 0.5, source="b", sample=1, tokens=5),
            outcome(2, "6", 0.0, source="b", sample=2, tokens=5),
            outcome(2, "5", 0.0, source="b", sample=3, tokens=5, cut=True),
        ],
    ]


def test_several_samples_by_hand() -> None:
    result = summarize(four_samples(), threshold=1.0, k=2)
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
    result = summarize(groups, threshold=1.0)
    # Three ways to write 1 outvote one 9; counted by text, four answers would tie at 3/4.
    assert result.overall.k == 4
    assert result.overall.maj_at_k is not None
    assert result.overall.maj_at_k.value == 1.0


def test_the_bootstrap_resamples_problems() -> None:
    result = summarize(four_samples(), threshold=1.0)
    interval = result.overall.pass_at_1
    # Three problems: a resample of one problem alone has chance 1/27 > 2.5 %, so the ends are the extremes.
    assert (interval.low, interval.high) == (0.0, 0.75)
    assert summarize(four_samples(), threshold=1.0).overall.pass_at_1 == interval


def test_one_sample_has_wilson_and_no_k() -> None:
    groups = [[outcome(row, "x", 1.0 if row < 5 else 0.0)] for row in range(10)]
    result = summarize(groups, threshold=1.0)
    # Wilson at 5 of 10 and z = 1.96: (0.5 + 0.19207 ± 0.36489)/1.38415.
    assert (result.overall.pass_at_1.low, result.overall.pass_at_1.high) == pytest.approx((0.23659, 0.76341), abs=1e-5)
    assert result.overall.pass_at_k is None
    assert "eval/pass@k" not in result.metrics
    assert result.metrics["eval/pass@1"] == 0.5


def test_problems_that_all_agree_keep_an_interval() -> None:
    groups = [[outcome(row, "x", 0.0), outcome(row, "x", 0.0, sample=1)] for row in range(20)]
    interval = summarize(groups, threshold=1.0).overall.pass_at_1
    # A bootstrap of twenty zeros would claim certainty; Wilson at 0 of 20: z²/(20 + z²).
    assert (interval.low, interval.high) == (0.0, pytest.approx(3.8415 / 23.8415, abs=1e-4))


def test_every_source_has_its_numbers() -> None:
    result = summarize(four_samples(), threshold=1.0)
    assert list(result.by_source) == ["a", "b"]
    assert result.by_source["a"].pass_at_1.value == 0.5
    assert result.by_source["b"].pass_at_1.value == 0.0
    assert result.by_source["b"].mean_length == 5.0
    assert result.metrics["eval/a/pass@1"] == 0.5
    assert result.metrics["eval/b/mean_length"] == 5.0
    alone = summarize(four_samples()[:2], threshold=1.0)
    assert not [name for name in alone.metrics if name.startswith("eval/a/")]


def test_the_threshold_decides() -> None:
    assert summarize(four_samples(), threshold=0.5).by_source["b"].pass_at_1.value == 0.25


def test_shaping_does_not_make_an_answer_wrong() -> None:
    long = outcome(0, "1", 1.0)
    assert isinstance(long, ScoredCompletion)
    shaped = replace(long, reward=0.4, tracker_reward=1.0)
    assert summarize([[shaped]], threshold=1.0).overall.pass_at_1.value == 1.0


def test_nothing_scored() -> None:
    result = summarize([[outcome(0, "x", None)]], threshold=1.0)
    assert result.overall.mean_reward is None
    assert (result.score.value, result.metrics["eval/unscored_fraction"]) == (0.0, 1.0)


def test_empty_evaluations_are_refused() -> None:
    for groups in ([], [[]], [[outcome(0, "x", 1.0)], []]):
        with pytest.raises(ValueError, match="at least one completion of every problem"):
            summarize(groups, threshold=1.0)
    with pytest.raises(ValueError, match="1 <= k <= samples"):
        summarize([[outcome(0, "x", 1.0)]], threshold=1.0, k=2)


def test_two_models_on_the_same_problems() -> None:
    worse = summarize([[outcome(row, "x", 0.0)] for row in range(40)], threshold=1.0)
    better = summarize([[outcome(row, "x", float(row % 2))] for row in range(40)], threshold=1.0)
    compared = compare_with_first({"worse": worse, "better": better})
    assert list(compared) == ["better"]
    assert list(compared["better"]) == ["pass@1"]
    numbers = compared["better"]["pass@1"]
    assert (numbers.mean_a, numbers.mean_b, numbers.difference, numbers.num_prompts) == (0.0, 0.5, 0.5, 40)
    assert numbers.significant
    assert compare_with_first({"worse": worse}) == {}
    several = summarize(four_samples(), threshold=1.0, k=2)
    assert list(compare_with_first({"x": several, "y": several})["y"]) == ["pass@1", "pass@2"]


def test_the_report_in_eighty_columns_and_as_json(tmp_path: Path) -> None:
    result = summarize(four_samples(), threshold=1.0, k=2)
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
    asked = DrawnPrompt(draw_id=3, prompt=chat, token_ids=np.array([5], dtype=np.int32))
    request = RolloutRequest(request_id=-9, drawn=asked, sample_index=0, v_hat=0.5, n_eff=0, policy_version=0, seed=0)
    completion = Completion(
        request=request,
        token_ids=np.zeros(1, dtype=np.int32),
        logprobs=np.zeros(1, dtype=np.float32),
        text="3\n",
        truncated=True,
        oldest_version=0,
        newest_version=0,
    )
    groups.append([UnscoredCompletion(completion=completion, reason="own: crash")])
    write_predictions(summarize(groups, threshold=1.0), tmp_path, name="model")
    rows = [json.loads(line) for line in (tmp_path / "model.jsonl").read_text().splitlines()]
    assert len(rows) == 13
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
        self.waiting: list[RolloutRequest] = []
        self.sampling: list[SamplingSettings | None] = []

    @property
    def outstanding(self) -> int:
        return len(self.waiting)

    def submit(self, requests: Sequence[RolloutRequest], sampling: SamplingSettings | None = None) -> None:
        self.waiting += requests
        self.sampling.append(sampling)

    def poll(self, timeout_s: float) -> list[Completion]:
        if self.silent:
            return []
        done, self.waiting = self.waiting[::-1], []
        return [
            Completion(
                request=request,
                token_ids=np.zeros(1, dtype=np.int32),
                logprobs=np.zeros(1, dtype=np.float32),
                text=f"{request.drawn.prompt.row}/{request.sample_index}",
                truncated=False,
                oldest_version=request.policy_version,
                newest_version=request.policy_version,
            )
            for request in done
        ]


def only_first_samples_are_right(request: RolloutRequest) -> float:
    return float(request.sample_index == 0)


def evaluator(generators: FakeGenerators, *, k: int | None = None, stall_s: float = 60.0) -> Evaluator:
    return Evaluator(
        service=CompletionService(generators=generators, scorers=FakeScorers(only_first_samples_are_right)),
        problems=[drawn(0, "a"), drawn(1, "b")],
        sampling=SamplingSettings(temperature=0.5),
        num_samples=3,
        seed=11,
        success_threshold=1.0,
        stall_s=stall_s,
        k=k,
    )


def test_samples_come_back_in_order_whatever_the_order_of_arrival() -> None:
    generators = FakeGenerators()
    subject = evaluator(generators, k=2)
    seen: list[tuple[int, int]] = []
    result = subject.run(
        version=4, pump=subject._service.pump, on_progress=lambda done, total: seen.append((done, total))
    )
    texts = [[item.completion.text for item in group] for group in result.outcomes]
    assert texts == [["0/0", "0/1", "0/2"], ["1/0", "1/1", "1/2"]]
    assert (result.overall.k, result.score.correct, result.score.total) == (2, 2, 6)
    assert seen[-1] == (6, 6)
    assert generators.sampling == [SamplingSettings(temperature=0.5)]
    seeds = [item.completion.request.seed for group in result.outcomes for item in group]
    assert len(set(seeds)) == 6
    again = evaluator(FakeGenerators())
    repeated = again.run(version=5, pump=again._service.pump)
    assert [item.completion.request.seed for group in repeated.outcomes for item in group] == seeds


def test_silence_ends_in_an_error() -> None:
    subject = evaluator(FakeGenerators(silent=True), stall_s=0.0)
    with pytest.raises(StallError, match="no completion for 0 s, 0 of 6 done"):
        subject.run(version=0, pump=subject._service.pump)
