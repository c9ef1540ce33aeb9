"""What a person reads of a run, on a terminal and in a job's log."""

from __future__ import annotations

import io
import itertools
import logging
from pathlib import Path

import pytest
from rich.console import Console

from bolt_ray.training.telemetry.console import ProgressDisplay, eval_numbers, open_log, step_numbers
from bolt_ray.training.telemetry.pace import Pace, duration

RECORD = {
    "reward/mean": 0.6604,
    "completions/mean_length": 8.52,
    "completions/truncated_fraction": 0.004,
    "policy/entropy": 0.1189,
    "policy/logprob_gap": 4.2e-7,
    "baseline/variance_reduction": 0.412,
    "throughput/tokens_per_second": 2304.4,
}
NUMBERS = "reward 0.660  length 8.5 (0% cut)  entropy 0.12  gap 4e-07  v̂ explains 41%  2,304 tokens/s"


def test_a_step_in_numbers() -> None:
    assert step_numbers(RECORD) == NUMBERS
    assert "  KL 0.0312  " in step_numbers(RECORD | {"adaptive_kl/raw_kl": 0.03123})
    assert "gap" not in step_numbers(RECORD | {"adaptive_kl/raw_kl": 0.0})
    assert "explains 0%" in step_numbers(RECORD | {"baseline/variance_reduction": -0.001})
    assert step_numbers({"step": 3, "reward/mean": 0.5}) == "reward 0.500"


def test_an_evaluation_in_numbers() -> None:
    assert eval_numbers(RECORD) is None
    record = {"eval/pass@1": 0.6426, "eval/pass@1_low": 0.6, "eval/pass@1_high": 0.683}
    assert eval_numbers(record) == "64.3% (60.0% to 68.3%)"


def lines(*, terminal: bool, seconds_a_step: float, steps: int = 6) -> list[str]:
    printed = io.StringIO()
    clock = itertools.count()
    console = Console(file=printed, width=80, force_terminal=terminal, legacy_windows=False)
    display = ProgressDisplay(
        total_steps=steps, first_step=0, console=console, clock=lambda: 1000.0 + next(clock) * seconds_a_step
    )
    with display:
        for step in range(1, steps + 1):
            if step == 3:
                display.evaluated({"step": 2, "eval/pass@1": 0.629})
            display.step(step, RECORD)
    return printed.getvalue().splitlines()


def test_a_log_gets_a_whole_line_every_few_seconds_and_at_the_end() -> None:
    assert lines(terminal=False, seconds_a_step=2.5) == [
        f"step 1/6  {NUMBERS}",
        f"step 3/6  eval 62.9%  {NUMBERS}  0:08 left",
        f"step 5/6  eval 62.9%  {NUMBERS}  0:02 left",
        f"step 6/6  eval 62.9%  {NUMBERS}  0:00 left",
    ]
    assert len(lines(terminal=False, seconds_a_step=60.0)) == 6
    assert len(lines(terminal=False, seconds_a_step=0.01)) == 2


def test_a_terminal_shows_a_bar_and_below_it_every_number_whatever_its_width() -> None:
    shown = "\n".join(lines(terminal=True, seconds_a_step=2.5))
    assert "6/6" in shown and "0:00 left" in shown
    last = shown[shown.rindex("6/6") :]
    for number in ("eval 62.9%", "reward 0.660", "entropy 0.12", "41%", "tokens/s"):
        assert number in last, number


def test_the_pace_is_that_of_the_last_steps_with_what_lies_between_them() -> None:
    pace = Pace()
    assert pace.seconds_left(100) is None
    pace.step(10, 0.0)
    assert pace.seconds_left(100) is None
    for number in range(1, 61):
        pace.step(10 + number, 100.0 if number <= 10 else 100.0 + 2.0 * (number - 10))
    assert pace.seconds_left(100) == pytest.approx(30 * 2.0)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (425, "7:05"), (11225, "3:07:05")])
def test_times_are_written_shortly(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_neither_the_log_nor_the_terminal_has_secrets(tmp_path: Path) -> None:
    printed = io.StringIO()
    handler = open_log(tmp_path / "run.log")
    try:
        display = ProgressDisplay(total_steps=1, first_step=0, console=Console(file=printed))
        display.say("Warning: https://me:hunter2@judge/ did not answer")
        try:
            raise ConnectionError("https://me:hunter2@judge/")
        except ConnectionError:
            logging.getLogger("bolt_ray.anything").exception("it failed")
    finally:
        logging.getLogger("bolt_ray").removeHandler(handler)
        handler.close()
    log = (tmp_path / "run.log").read_text()
    assert "ConnectionError: https://***@judge/" in log and "Warning: https://***@judge/" in log
    assert "hunter2" not in log + printed.getvalue()
