"""What the report says of a run in words, and the settings in which runs differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.report_runs import CONFIG, evaluation, step_record

from bolt_ray.commands.report.reading import ReadRun
from bolt_ray.commands.report.series import columns
from bolt_ray.commands.report.words import facts, gains, story
from bolt_ray.commands.shared.differences import differences
from bolt_ray.commands.status.condition import Condition, Standing


def run_of(**other: object) -> ReadRun:
    steps = [step_record(step, of=40) for step in range(1, 41)]
    return ReadRun(path=Path("run"), **({"config": CONFIG, "steps": steps} | other))  # type: ignore[arg-type]


def test_what_was_trained() -> None:
    run = run_of()
    said = dict(facts(run, columns(run.steps)))
    assert said["Model"] == "models/small"
    assert said["Data"] == "problems.jsonl, more.csv"
    assert said["Rewards"] == "math, length × -0.1"
    assert said["Algorithm"] == "bolt: 1 completion a draw, learning rate 1e-06"
    assert said["Steps"] == "40 of 40"
    assert said["Completions"] == "2,560"
    assert said["Tokens"] == "30,720"
    assert said["Time"] == "0:01:26"


def test_nothing_is_said_of_what_is_unknown() -> None:
    assert facts(ReadRun(path=Path("run")), {}) == [("Steps", "0")]
    assert gains(ReadRun(path=Path("run"))) == []


@pytest.mark.parametrize(
    ("after", "verdict", "verb"),
    [(0.5, "better", "rose"), (0.1, "worse", "fell"), (0.32, "unclear", "did not clearly")],
)
def test_what_was_gained(after: float, verdict: str, verb: str) -> None:
    run = run_of(evaluations=[evaluation(0, 0.3), evaluation(20, 0.9), evaluation(40, after)])
    (gain,) = gains(run)
    assert (gain.label, gain.before, gain.verdict) == ("Held-out pass@1", "30.0 % [25.0, 35.0]", verdict)
    assert gain.change.endswith("from step 0 to step 40")
    assert f"Held-out pass@1 {verb}" in story(run)


def test_datasets_have_their_own_gain_and_an_interval_only_where_it_is_known() -> None:
    first, last = evaluation(0, 0.2), evaluation(9, 0.6)
    first["eval/gsm8k/pass@1"], last["eval/gsm8k/pass@1"] = 0.1, 0.4
    _, of_dataset = gains(run_of(evaluations=[first, last]))
    assert of_dataset.label == "Held-out gsm8k/pass@1"
    assert (of_dataset.before, of_dataset.verdict) == ("10.0 %", "unknown")
    assert of_dataset.change.startswith("+30.0 points from")


def test_without_evaluations_the_reward_is_compared() -> None:
    (gain,) = gains(run_of())
    assert (gain.label, gain.verdict) == ("Reward", "unknown")
    assert "first 4 steps" in gain.change


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        (None, "The run is done."),
        (Condition(Standing.ENDED, "done"), "The run has ended after step 40 of 40: done."),
        (Condition(Standing.ENDED, "cut off: process 1 is gone"), "of 40: cut off: process 1 is gone."),
        (Condition(Standing.RUNNING, ""), "The run is going on after step 40 of 40."),
        (
            Condition(Standing.STALLED, "train has gone on for 9:00"),
            "has stalled after step 40 of 40: train has gone on for 9:00.",
        ),
    ],
)
def test_how_it_stands(condition: Condition | None, said: str) -> None:
    assert story(run_of(condition=condition)).endswith(said)


def test_without_a_state_it_is_left_open_whether_it_goes_on() -> None:
    run = run_of(steps=[step_record(7, of=40)])
    assert story(run).endswith("of step 7 of 40: the run was going on when this was written, or was cut off.")


def test_settings_that_differ() -> None:
    left = {"run_dir": "a", "seed": 1, "loss": {"type": "grpo"}, "rewards": [{"type": "math"}], "stop": ["a", "b"]}
    right = {
        "run_dir": "b",
        "seed": 1,
        "loss": {"type": "dapo", "delta": None},
        "rewards": [{"type": "math"}],
        "stop": [],
    }
    assert differences([left, right]) == [
        ("loss.type", ["grpo", "dapo"]),
        ("stop", ['["a", "b"]', "[]"]),
        ("loss.delta", ["–", "null"]),
    ]
