"""Each rule says what it is for, and nothing of a run that is well."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bolt_ray.commands.config import explanation
from bolt_ray.core.evaluation.pass_at_k import wilson_interval
from bolt_ray.training.telemetry.health import FIRST_STEPS, LAST_STEPS, RULES, Health, Verdict, judge
from bolt_ray.training.telemetry.record import read_metrics

RECORDED = Path(__file__).parents[2] / "support" / "recorded"
WELL = {
    "reward/mean": 0.5,
    "reward/std": 0.5,
    "reward/unscored_fraction": 0.0,
    "reward/zero_std_fraction": 0.4,
    "reward/most_common": 0.5,
    "completions/truncated_fraction": 0.1,
    "completions/most_common_fraction": 0.1,
    "policy/entropy": 0.5,
    "policy/logprob_gap": 1e-6,
    "policy/sync_gap": 1e-5,
    "policy/staleness_max": 0.0,
    "baseline/variance_reduction_seen": 0.3,
    "baseline/seen_fraction": 0.5,
    "baseline/versions_between_visits": 12.0,
    "baseline/hist_0": 0.3,
    "baseline/hist_9": 0.3,
    "rollout/completions": 64.0,
    "time/step": 10.0,
    "time/idle_generator": 5.0,
    "time/idle_trainer": 5.0,
    "memory/node_fraction": 0.5,
}


def evaluation(step: int, right: float, *, of: int = 512) -> dict[str, Any]:
    low, high = wilson_interval(round(right * of), of)
    return {"step": step, "eval/pass@1": right, "eval/pass@1_low": low, "eval/pass@1_high": high}


def run(steps: int = 40, *, then: int = 10, scores: Sequence[float] = (), **changed: float) -> list[dict[str, Any]]:
    """Records of a run that is well, in which from step ``then`` on the metrics given (``a__b`` for a/b) are others;
    at the end evaluations with ``scores``."""
    new = {name.replace("__", "/"): value for name, value in changed.items()}
    records = []
    for step in range(1, steps + 1):
        varying = {f"reward/part/{name}": 0.5 + step / 1000 for name in ("math", "format")}
        record = {"step": step} | WELL | varying | (new if step > then else {})
        records.append(record)
    return [*records, *(evaluation(steps, score) for score in scores)]


def only(records: list[dict[str, Any]]) -> Verdict:
    (verdict,) = judge(records)
    return verdict


FIRED: dict[str, tuple[dict[str, Any], str]] = {
    "zero-variance groups": ({"reward__zero_std_fraction": 0.9}, "in 57% of the groups"),
    "truncation": ({"completions__truncated_fraction": 0.5}, "30% of the completions are cut"),
    "evaluation fell": (
        {"scores": (0.2, 0.5, 0.43)},
        "the evaluation fell to 43.0%; at step 40 it was 50.0%",
    ),
    "entropy collapse": ({"policy__entropy": 0.01}, "from 0.5 to 0.01 nats"),
    "rising gap": ({"policy__logprob_gap": 0.02}, "disagree by 0.0067 nats a token, 1e-06 at the start"),
    "v̂ worse than the mean": ({"baseline__variance_reduction_seen": -0.5}, "it explains -30% of their variance"),
    "solved or hopeless": ({"baseline__hist_9": 0.95}, "95% of the prompts trained on are solved"),
    "constant reward parts": ({"reward__part__format": 0.9}, "at every step: format (0.9)"),
    "constant answer": (
        {"completions__most_common_fraction": 1.0, "reward__most_common": 0.9},
        "100% of the prompts get the same answer, and it earns 0.9 on average; the run began at 0.5",
    ),
    "unscored": ({"reward__unscored_fraction": 0.2}, "7% of the completions get no reward"),
    "idle side": ({"time__idle_trainer": 8.5}, "the learner waits 85% of the time"),
    "memory": ({"memory__node_fraction": 0.9}, "90% of a node's memory"),
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_sees_what_it_is_for_and_no_other_does(rule: str) -> None:
    changed, text = FIRED[rule]
    verdict = only(run(**changed, then=0 if rule == "constant reward parts" else 10))
    assert verdict.rule == rule
    assert text in verdict.text, verdict.text
    assert str(verdict) == f"Warning: step {verdict.step}: {verdict.text}. {verdict.advice}"


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"reward__zero_std_fraction": 0.5},
        {"completions__truncated_fraction": 0.25},
        {"policy__entropy": 0.06},
        {"scores": (0.5, 0.45)},
        {"scores": (0.4, 0.5, 0.3, 0.5), "steps": 9},
        {"policy__logprob_gap": 0.004},
        {"policy__logprob_gap": 0.5, "policy__staleness_max": 2.0},
        {"baseline__variance_reduction_seen": 0.0},
        {"baseline__variance_reduction_seen": -0.5, "rollout__completions": 8.0},
        {"baseline__hist_9": 0.79},
        {"baseline__hist_0": 0.79},
        {"reward__part__format": 0.9},
        {"completions__most_common_fraction": 0.75, "reward__most_common": 1.0},
        {"completions__most_common_fraction": 1.0, "reward__most_common": 0.5},
        {"reward__unscored_fraction": 0.04},
        {"time__idle_trainer": 7.9},
        {"time__idle_generator": 5.9, "time__idle_trainer": 5.9, "policy__staleness_max": 1.0},
        {"memory__node_fraction": 0.84},
    ],
    ids=str,
)
def test_below_its_limit_nothing_is_said(changed: dict[str, Any]) -> None:
    assert judge(run(**changed)) == []


def test_what_has_always_been_so_does_not_rise() -> None:
    assert judge(run(then=0, completions__truncated_fraction=0.4)) == []
    assert judge(run(then=0, policy__logprob_gap=0.02)) == []


@pytest.mark.parametrize(
    ("changed", "text", "advice"),
    [
        ({"baseline__hist_0": 1.0}, "are hopeless (v̂ below 0.1)", "partial credit"),
        ({"reward__std": 0.0}, "all completions of a step get the same reward (0.5)", "harder or easier data"),
        ({"time__idle_generator": 8.5}, "the generators wait 85%", "rollout.max_staleness: 1"),
        (
            {"time__idle_generator": 6.5, "policy__staleness_max": 1.0},
            "the generators wait 65%",
            "more learners (cluster.num_learners)",
        ),
        (
            {"policy__sync_gap": 0.02, "policy__staleness_max": 1.0},
            "(metric policy/sync_gap)",
            "generator.dtype",
        ),
    ],
    ids=str,
)
def test_a_rule_says_which_of_its_sides_it_is(changed: dict[str, float], text: str, advice: str) -> None:
    verdict = only(run(**changed))
    assert text in verdict.text
    assert advice in verdict.advice


def test_a_few_slow_steps_leave_no_side_idle() -> None:
    records = run()
    for record in records[::4]:
        record |= {"time/step": 500.0, "time/idle_trainer": 495.0}
    assert judge(records) == []


def test_a_few_prompts_seen_before_are_no_proof_against_v_hat() -> None:
    records = run()
    for number, record in enumerate(records):
        record["baseline/variance_reduction_seen"] = -0.6 if number % 2 else 0.5
    assert judge(records) == []
    assert judge([{**record, "baseline/variance_reduction_seen": -0.1} for record in records]) != []


def test_advice_names_settings_there_are() -> None:
    advice = [only(run(**changed, then=0 if "part" in str(changed) else 10)).advice for changed, _ in FIRED.values()]
    names = {name for text in advice for name in re.findall(r"\b[a-z]+\.[a-z_]+\b", text)} - {"algorithms.md"}
    assert len(names) > 15
    for name in names:
        assert name in explanation(name)


@pytest.mark.parametrize("algo", ["bolt", "grpo"])
def test_runs_that_learned_are_well(algo: str) -> None:
    """The first and the last 20 steps of two runs of 200, recorded before some of the metrics were there."""
    records = read_metrics(RECORDED / f"{algo}.jsonl")
    assert len(records) == 40 and {"policy/entropy", "time/idle_trainer"} <= set(records[0])
    assert judge(records) == []


def test_a_score_is_held_against_the_best_so_far_even_the_last_one_and_after_a_resume() -> None:
    """Held-out scores of a run at ten times a good learning rate: no step down is clear by itself."""
    scores = (0.297, 0.310, 0.311, 0.281, 0.277, 0.306, 0.225, 0.250, 0.228)
    records = [evaluation(0, scores[0], of=1000)]
    for number, score in enumerate(scores[1:], start=1):
        records += [{**record, "step": 25 * number} for record in run(25)] + [evaluation(25 * number, score, of=1000)]
    (verdict,) = judge(records)
    assert (verdict.rule, verdict.step) == ("evaluation fell", 150)
    assert "at step 50 it was 31.1%" in verdict.text
    resumed = Health(records[: len(records) - 26 * 3])
    assert resumed.verdicts == []
    assert [found.rule for record in records[-26 * 3 :] for found in resumed.take(record)] == ["evaluation fell"]


def test_nothing_is_said_too_soon_or_of_no_metrics() -> None:
    assert judge(run(9, then=0, reward__zero_std_fraction=1.0)) == []
    assert judge([{"step": step, "reward/mean": 0.5} for step in range(50)]) == []
    assert judge([{"step": step, "eval/pass@1": 0.5} for step in range(50)]) == []
    assert judge([]) == []


def test_each_thing_is_said_once_at_the_step_that_shows_it() -> None:
    health = Health()
    said = {record["step"]: health.take(record) for record in run(60, policy__entropy=0.0, memory__node_fraction=0.9)}
    assert {step: [verdict.rule for verdict in found] for step, found in said.items() if found} == {
        15: ["memory"],
        30: ["entropy collapse"],
    }
    assert [verdict.step for verdict in health.verdicts] == [15, 30]
    assert Health(run(60, policy__entropy=0.0, memory__node_fraction=0.9)).verdicts == health.verdicts


def test_a_step_costs_the_same_however_long_the_run_is() -> None:
    looks: Counter[int] = Counter()

    class Watched(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            looks[super().__getitem__("step")] += 1
            return super().__getitem__(name)

    steps = 400
    health = Health()
    for record in run(steps):
        health.take(Watched(record))
    later = [looks[step] for step in range(LAST_STEPS, steps - LAST_STEPS)]
    assert max(later) <= 2 * min(later) < 400
    assert max(looks[step] for step in range(1, FIRST_STEPS + 1)) > max(later)
