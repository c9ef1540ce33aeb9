"""Samples as rows and as files: what they say, that they are whole, and that they keep within their bound."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.fakes import no_two_alike
from support.samples import rollout, trained_step

from bolt_ray.core.evaluation.summary import EvaluationResult, Success, summarize
from bolt_ray.core.records import Prompt, ScoredCompletion, UnscoredCompletion, UnscoredReason
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.settings import SamplesSettings
from bolt_ray.training.telemetry.console import ProgressDisplay
from bolt_ray.training.telemetry.observer import Observer, TrainedStep
from bolt_ray.training.telemetry.record import MetricsLog, read_metrics
from bolt_ray.training.telemetry.sample_files import SampleFiles, read_samples, sample_files, superfluous
from bolt_ray.training.telemetry.sample_rows import evaluation_rows, row_text, training_rows
from bolt_ray.training.telemetry.telemetry import Telemetry

ALL = SamplesSettings(all=True)


def rows_of(trained: TrainedStep, settings: SamplesSettings = ALL, low: float = 0.0, high: float = 1.0) -> Any:
    rows = training_rows(trained, settings, reward_range=(low, high))
    return [json.loads(row_text(row)) for row in rows]


def files(directory: Path, *, first_step: int = 0, **settings: Any) -> SampleFiles:
    made = SampleFiles(
        directory / "samples", SamplesSettings(**settings), reward_range=(0.0, 1.0), first_step=first_step
    )
    made.begin()
    return made


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "samples").iterdir())


def evaluation(problems: int, samples: int = 1) -> EvaluationResult:
    """Every completion of the even problems is right; the last one of all has no reward."""
    numbers = [[problem * samples + i for i in range(samples)] for problem in range(problems)]
    last = numbers[-1][-1]

    def outcome(number: int, reward: float) -> ScoredCompletion | UnscoredCompletion:
        fields: dict[str, Any] = {
            "request_id": -1 - number,
            "token_ids": np.arange(3, dtype=np.int32),
            "logprobs": np.full(3, -0.5, dtype=np.float32),
            "text": f"answer {number}",
            "truncated": False,
            "oldest_version": 4,
            "newest_version": 4,
        }
        if number == last:
            return UnscoredCompletion(**fields, reason=UnscoredReason(reward="own", kind="crash"))
        return ScoredCompletion(**fields, reward=reward, tracker_reward=reward)

    return summarize(
        [Prompt(row=row, key=f"key-{row}", prompt=f"{row}=", answer=str(row)) for row in range(problems)],
        [[outcome(number, 1.0 - problem % 2) for number in group] for problem, group in enumerate(numbers)],
        success=Success(reward=1.0),
        same_answers=no_two_alike,
    )


def test_a_row_says_all_that_is_known_of_a_completion() -> None:
    stale = rollout(0, reward=1.0)
    step = trained_step([rollout(1, reward=0.5, tokens=3), rollout(2, reward=None), rollout(3)], baseline_only=[stale])
    rows = rows_of(step, high=2.0)
    assert [row["prompt_id"] for row in rows] == ["key-0", "key-1", "key-2", "key-3"], "in the order of their requests"
    assert rows[1] == {
        "kind": "train",
        "step": 1,
        "why": ["worst", "longest"],
        "prompt_id": "key-1",
        "source": "sums",
        "prompt": "2+2=",
        "completion": "4",
        "answer": "4",
        "reward": 0.5,
        "correct": None,
        "parts": {"own": 0.5},
        "metrics": {},
        "extras": {},
        "v_hat": 0.25,
        "visits": 3,
        "last_version": 5,
        "draw_weight": 1.5,
        "surprise": 0.0,  # .5 of 2 is a quarter
        "advantage": 0.0,
        "dropped": None,
        "num_tokens": 3,
        "truncated": False,
        "mean_logprob": -0.125,
        "oldest_version": 6,
        "newest_version": 7,
        "policy_version": 6,
        "group_id": 11,
        "sample_index": 0,
        "gap": 0.125,
        "unscored": None,
        "cut": {},
    }
    assert rows[3]["advantage"] == 1.0, "the second trained one: the unscored one has no place in the batch"
    assert rows[3]["surprise"] == 0.25
    unknown = ("reward", "advantage", "surprise", "gap")
    assert [rows[2][name] for name in unknown] == [None] * 4
    assert (rows[2]["unscored"], rows[2]["dropped"]) == ("own: timeout: after 1 s", "unscored")
    assert (rows[2]["v_hat"], rows[2]["visits"], rows[2]["draw_weight"]) == (0.25, 3, 1.5)
    assert (rows[0]["advantage"], rows[0]["gap"], rows[0]["dropped"]) == (None, None, "stale")
    assert all(list(row) == list(rows[0]) for row in rows), "no key is missing where it is not known"


def test_why_a_completion_has_no_reward_is_kept_without_what_it_quotes() -> None:
    refused = replace(
        rollout(1, reward=None), reason=UnscoredReason(reward="http", kind="refused", detail="http://me:hunter2@judge/")
    )
    (row,) = rows_of(trained_step([refused]))
    assert row["unscored"] == "http: refused: http://***@judge/"


def test_the_gap_is_that_of_the_completion_whatever_the_order() -> None:
    """Four sequences of different lengths; the learner passed over the second only after its update."""
    items = [rollout(number, tokens=tokens) for number, tokens in ((5, 3), (1, 1), (4, 2), (2, 0))]
    step = trained_step(items, before=[-1.0, math.nan, -0.25, 7.0])
    assert {row["prompt_id"]: row["gap"] for row in rows_of(step)} == {
        "key-5": 0.375,  # the generator's were -5/8
        "key-1": None,
        "key-4": 0.25,
        "key-2": None,  # no token at all
    }


def test_only_the_chosen_ones_are_rows_unless_all_are_wanted() -> None:
    step = trained_step([rollout(number, reward=number / 20) for number in range(20)])
    few = rows_of(step, SamplesSettings(per_step=4))
    assert len(few) == 4 and "all" not in {reason for row in few for reason in row["why"]}
    many = rows_of(step, SamplesSettings(per_step=4, all=True))
    assert len(many) == 20
    assert [row for row in many if row["why"] != ["all"]] == few
    assert {tuple(row["why"]) for row in rows_of(step, SamplesSettings(per_step=0, all=True))} == {("all",)}


def test_a_row_is_valid_json_of_bounded_size_whatever_is_in_it() -> None:
    deep: Any = "x"
    for _ in range(400):
        deep = [deep]
    messages = [{"role": "user", "content": "\ud800?"}]
    item = rollout(
        0,
        text="a\ud800b\x1b[31m\x00\u2028\x85" + "é" * 200,
        prompt=Prompt(row=0, key="k", prompt=messages, answer="4" * 1000),
        metrics={"m": math.nan, "n": math.inf},
        extras={"own": {"deep": deep, "two\nlines": "é"}},
        v_hat=0.5,
    )
    (row,) = training_rows(trained_step([item]), SamplesSettings(max_chars=100), reward_range=(0.0, 1.0))
    text = row_text(row)
    assert not set(text) & set("\x1b\x00\x85\u2028\ud800")
    assert len(text.splitlines()) == 1
    read = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    assert read["completion"].startswith("a\ufffdb\x1b[31m\x00\u2028\x85éé")
    assert read["completion"].endswith("éé")
    assert "[… 111 characters left out …]" in read["completion"]
    assert read["prompt"] == [{"role": "user", "content": "\ufffd?"}]
    assert read["metrics"] == {"m": None, "n": None}
    assert read["cut"] == {"completion": 111, "answer": 900}
    assert len(text.encode()) < 2000
    large = [{"role": "user", "content": "x" * 300}, {"role": "user", "content": "y"}]
    item = rollout(1, prompt=Prompt(row=0, key="k", prompt=large), extras={"own": {"said": "z" * 300}})
    (row,) = rows_of(trained_step([item]), SamplesSettings(max_chars=100))
    assert isinstance(row["prompt"], str) and len(row["prompt"]) < 150
    assert row["extras"] == {} and set(row["cut"]) == {"prompt", "extras"}


def test_nothing_else_of_the_row_or_the_environment_is_in_it() -> None:
    prompt = Prompt(row=0, key="k", prompt="p", metadata={"api_key": "hidden"}, dataset="/home/me/rows.jsonl")
    (row,) = rows_of(trained_step([rollout(0, prompt=prompt)]))
    assert "hidden" not in str(row) and "/home/me" not in str(row)


def test_an_evaluation_has_all_its_problems_or_always_the_same_ones() -> None:
    rows = evaluation_rows(evaluation(4, samples=2), SamplesSettings(), step=50, policy_version=49)
    assert len(rows) == 8
    assert [row["correct"] for row in rows] == [True, True, False, False, True, True, False, False]
    assert [row["unscored"] for row in rows] == [None] * 7 + ["own: crash"]
    first = rows[0]
    assert (first["kind"], first["step"], first["why"], first["sample_index"]) == ("eval", 50, ["all"], 0)
    assert (first["prompt"], first["completion"], first["answer"]) == ("0=", "answer 0", "0")
    assert (first["policy_version"], first["newest_version"], first["mean_logprob"]) == (49, 4, -0.5)
    assert [first[name] for name in ("v_hat", "advantage", "visits", "gap", "group_id")] == [None] * 5
    some = evaluation_rows(evaluation(100, samples=2), SamplesSettings(eval=6), step=50, policy_version=49)
    assert [row["prompt_id"] for row in some] == ["key-0", "key-0", "key-49", "key-49", "key-99", "key-99"]
    assert len(evaluation_rows(evaluation(9, samples=4), SamplesSettings(eval=3), step=1, policy_version=1)) == 3
    assert list(first) == list(rows_of(trained_step([rollout(1)]))[0]), "one table for both"


def test_a_file_for_each_step_and_evaluation(tmp_path: Path) -> None:
    written = files(tmp_path)
    step = written.of_step(trained_step([rollout(1), rollout(2, reward=0.0)], step=120))
    result = written.of_evaluation(evaluation(3), step=120, policy_version=119)
    assert step is not None and result is not None
    assert (step.name, result.name) == ("step-000120", "eval-000120")
    assert names(tmp_path) == ["eval-000120.jsonl", "step-000120.jsonl"], "nothing is left beside them"
    assert read_samples(tmp_path / "samples" / "step-000120.jsonl") == (list(step.rows), 0)
    found = sample_files(tmp_path / "samples")
    assert [(file.kind, file.step) for file in found] == [("eval", 120), ("train", 120)]


def test_what_is_not_wanted_is_not_written(tmp_path: Path) -> None:
    written = files(tmp_path, per_step=0, eval=0)
    assert written.of_step(trained_step([rollout(1)])) is None
    assert written.of_evaluation(evaluation(3), step=0, policy_version=0) is None
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_replaces_the_files_of_steps_trained_again(tmp_path: Path) -> None:
    first = files(tmp_path)
    for step in (1, 2, 3, 4):
        first.of_step(trained_step([rollout(1, text="first")], step=step))
        first.of_evaluation(evaluation(1), step=step, policy_version=step)
    (tmp_path / "samples" / ".step-000005.part").write_text("{")
    (tmp_path / "samples" / "notes.jsonl").write_text("mine")
    again = files(tmp_path, first_step=2)
    assert names(tmp_path) == [
        *("eval-000001.jsonl", "eval-000002.jsonl", "notes.jsonl", "step-000001.jsonl", "step-000002.jsonl")
    ]
    again.of_step(trained_step([rollout(1, text="again")], step=3))
    texts = {path: read_samples(tmp_path / "samples" / path)[0][0]["completion"] for path in names(tmp_path)[3:]}
    assert texts == {
        "step-000001.jsonl": "first",
        "step-000002.jsonl": "first",
        "step-000003.jsonl": "again",
    }


def test_torn_and_foreign_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "step-000001.jsonl"
    path.write_bytes(b'{"step": 1}\n\xff\xfe\n[1]\n\n' + b"[" * 200_000 + b'\n{"step": 2}\n{"ste')
    assert read_samples(path) == ([{"step": 1}, {"step": 2}], 4)
    assert read_samples(tmp_path / "gone.jsonl") == ([], 0)
    assert sample_files(tmp_path / "nowhere") == []


def test_samples_never_exceed_their_bound_over_fifty_thousand_steps() -> None:
    """As `SampleFiles` does it, without the disk: files of 20 to 120 kB, an evaluation of 400 kB every 50 steps."""
    bound, sizes = 8_000_000, {"train": {}, "eval": {}}  # type: ignore[var-annotated]
    random = np.random.default_rng(0)
    for step in range(1, 50_001):
        new = {"train": int(random.integers(20_000, 120_000)), "eval": 400_000 if step % 50 == 0 else 0}
        for kind, size in new.items():
            if size:
                for old in superfluous(sizes, room=bound - size):
                    del sizes[old[0]][old[1]]
                sizes[kind][step] = size
        assert sum(sum(files.values()) for files in sizes.values()) <= bound
    for kind, every in (("train", 1), ("eval", 50)):
        steps = np.array(list(sizes[kind]))
        assert steps[0] == every and steps[-1] == 50_000, "the first and the newest are there"
        gaps = np.diff(steps)
        assert gaps.max() <= 5 * 50_000 / len(steps), "no part of the run is without any"
        assert gaps[-5:].mean() < gaps.mean() / 2, "recent steps are denser"


def test_files_on_disk_keep_within_the_bound(tmp_path: Path) -> None:
    written = files(tmp_path, max_mb=0.02, all=True)
    items = [rollout(number, text="x" * 100) for number in range(4)]
    for step in range(1, 60):
        before = written.of_step(trained_step(items, step=step))
        assert before is not None and len(before.rows) == 4
        assert sum(path.stat().st_size for path in (tmp_path / "samples").iterdir()) <= 20_000
    steps = [file.step for file in sample_files(tmp_path / "samples")]
    assert steps[0] == 1 and steps[-1] == 59 and len(steps) >= 4
    # A restart counts what is there.
    again = files(tmp_path, first_step=59, max_mb=0.02, all=True)
    for step in range(60, 70):
        again.of_step(trained_step(items, step=step))
        assert sum(path.stat().st_size for path in (tmp_path / "samples").iterdir()) <= 20_000


def test_one_file_takes_no_more_than_a_quarter_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written = files(tmp_path, max_mb=0.02, all=True)
    items = [rollout(number, text="x" * 100) for number in range(40)]
    for step in (1, 2):
        kept = written.of_step(trained_step(items, step=step))
        assert kept is not None and 0 < len(kept.rows) < 10
    assert (tmp_path / "samples" / "step-000001.jsonl").stat().st_size <= 5_000
    assert caplog.text.count("of 40 samples are kept") == 1


class Witness(Observer):
    """Writes down the samples it is handed, and what was there when it was told of a record."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def sampled(self, name: str, samples: Sequence[Any]) -> None:
        self.seen.append((name, len(samples)))

    def recorded(self, record: Any) -> None:
        self.seen.append(record["step"])


def telemetry(directory: Path, witness: Witness) -> tuple[Telemetry, io.StringIO]:
    printed = io.StringIO()
    run = RunDirectory(directory)
    made = Telemetry(
        metrics=MetricsLog(run),
        display=ProgressDisplay(total_steps=9, first_step=0, console=Console(file=printed, width=1000)),
        observers=[witness],
        samples=SampleFiles(run.samples, SamplesSettings(), reward_range=(0.0, 1.0), first_step=0),
    )
    return made, printed


def test_observers_get_the_rows_before_the_record(tmp_path: Path) -> None:
    witness = Witness()
    run, _ = telemetry(tmp_path, witness)
    run.evaluation(evaluation(3), {"step": 0, "policy_version": 0})
    run.trained(trained_step([rollout(1), rollout(2, reward=0.0)]))
    assert witness.seen == [("eval-000000", 3), 0, ("step-000001", 2), 1]


def test_samples_that_cannot_be_written_are_one_warning(tmp_path: Path) -> None:
    """A file lies where the directory should be."""
    (tmp_path / "samples").write_text("")
    witness = Witness()
    run, printed = telemetry(tmp_path, witness)
    for step in (1, 2, 3):
        run.trained(trained_step([rollout(1)], step=step))
    assert printed.getvalue().count("samples of completions are not written") == 1
    assert witness.seen == [1, 2, 3]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 3
