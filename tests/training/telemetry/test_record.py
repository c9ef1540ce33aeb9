"""The metrics files: appended, widened, cut back on resume."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
from support.disks import fill, small_disk

from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.record import MetricsLog, read_metrics
from bolt_ray.training.telemetry.timer import StepTimer


def rows(run: RunDirectory) -> list[dict[str, str]]:
    with run.metrics_csv.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_both_files_hold_the_same_records(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    log = MetricsLog(run)
    log.write({"step": 1, "reward/mean": 0.5})
    log.write({"step": 2, "reward/mean": 0.75})
    assert read_metrics(run.metrics_jsonl) == [{"step": 1, "reward/mean": 0.5}, {"step": 2, "reward/mean": 0.75}]
    assert rows(run) == [{"step": "1", "reward/mean": "0.5"}, {"step": "2", "reward/mean": "0.75"}]


def test_a_number_that_is_not_finite_is_left_out_because_json_has_none(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    log = MetricsLog(run)
    diverged = {"step": 1, "reward/mean": 0.5, "policy/gen_kl": math.nan, "optim/grad_norm": math.inf}
    assert log.write(diverged) == {"step": 1, "reward/mean": 0.5}
    assert run.metrics_jsonl.read_text() == '{"step": 1, "reward/mean": 0.5}\n'
    with run.metrics_jsonl.open("a") as file:  # as an earlier version did
        file.write('{"step": 2, "policy/gen_kl": NaN}\n')
    log = MetricsLog(run, keep_up_to_step=2)
    log.begin()
    assert log.last == {"step": 2, "reward/mean": 0.5}
    assert run.metrics_jsonl.read_text() == '{"step": 1, "reward/mean": 0.5}\n{"step": 2}\n'


def test_a_resume_that_cannot_write_leaves_the_record_as_it_was(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    MetricsLog(run).write({"step": 1})
    (tmp_path / ".metrics.jsonl.part").mkdir()
    with pytest.raises(OSError):
        MetricsLog(run, keep_up_to_step=1).begin()
    assert read_metrics(run.metrics_jsonl) == [{"step": 1}]


def test_a_new_column_widens_the_table(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    log = MetricsLog(run)
    log.write({"step": 1, "a": 1.0})
    log.write({"step": 1, "b": 2.0})
    log.write({"step": 2, "a": 3.0})
    assert rows(run) == [
        {"step": "1", "a": "1.0", "b": ""},
        {"step": "1", "a": "", "b": "2.0"},
        {"step": "2", "a": "3.0", "b": ""},
    ]


def test_resume_drops_what_will_be_trained_again_and_a_torn_line(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    log = MetricsLog(run)
    for step in (1, 2, 3):
        log.write({"step": step})
    with run.metrics_jsonl.open("a") as file:
        file.write('{"step": 4, "rew')
    resumed = MetricsLog(run, keep_up_to_step=2)
    assert [record["step"] for record in resumed.kept] == [1, 2]
    # Before a first record it may still fail to start, and the record be that of a newer checkpoint.
    assert [record["step"] for record in read_metrics(run.metrics_jsonl)] == [1, 2, 3]
    resumed.begin()
    assert [record["step"] for record in read_metrics(run.metrics_jsonl)] == [1, 2]
    assert [row["step"] for row in rows(run)] == ["1", "2"]


def test_a_new_run_starts_with_empty_files(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.metrics_jsonl.write_text('{"step": 1}\n')  # of one that was killed before its first checkpoint
    MetricsLog(run).begin()
    assert run.metrics_jsonl.read_text() == ""


def test_phases_add_up() -> None:
    times = iter([10.0, 12.0, 20.0, 21.0, 30.0, 34.0])
    timer = StepTimer(clock=lambda: next(times))
    for name in ("train", "sync", "train"):
        with timer.phase(name):
            pass
    assert timer.seconds == {"train": 6.0, "sync": 1.0}


def test_what_was_evaluated_is_known_after_a_resume(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    log = MetricsLog(run)
    for record in ({"step": 2, "eval/pass@1": 0.5}, {"step": 3, "reward/mean": 0.1}, {"step": 4, "eval/pass@1": 0.5}):
        log.write(record)
    assert log.evaluated == {2, 4}
    assert MetricsLog(run, keep_up_to_step=3).evaluated == {2}


def test_a_damaged_line_costs_no_resume(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.metrics_jsonl.write_bytes(b'{"step": 1}\n{"step": 2, "rew\n\0\0\0\n[3]\n{"step": 4}\n{"st')
    MetricsLog(run, keep_up_to_step=4)
    assert read_metrics(run.metrics_jsonl) == [{"step": 1}, {"step": 4}]


def test_a_full_disk_is_told_once_and_nothing_is_lost(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        run = RunDirectory(disk)
        log = MetricsLog(run)
        records = [{"step": step, "reward/mean": step / 8, "config/note": "x" * 700} for step in range(1, 9)]
        log.write(records[0])
        ballast = fill(disk, leave=0)
        problems = []
        for record in records[1:]:
            log.write(record)
            problems.append(log.take_problem())
        told = [problem for problem in problems if problem is not None]
        assert len(told) == 1 and "No space left on device" in told[0]
        whole = read_metrics(run.metrics_jsonl)
        assert whole == records[: len(whole)] and len(whole) < 8
        assert run.metrics_jsonl.read_text().endswith("}\n"), "no part of a line"
        ballast.unlink()
        log.write({"step": 9})
        assert read_metrics(run.metrics_jsonl) == [*records, {"step": 9}]
        assert [row["step"] for row in rows(run)] == [str(step) for step in range(1, 10)]
        fill(disk, leave=0)
        for step in range(10, 30):
            log.write({"step": step, "config/note": "y" * 700})
        assert log.take_problem() is not None, "another time is told again"
