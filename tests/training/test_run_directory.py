"""Where a run's directory is: a new one, one to go on with, and within a Ray job."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bolt_ray.core.errors import CheckpointError
from bolt_ray.training.run_directory import (
    JOB_VARIABLE,
    RunDirectory,
    checkpoint_name,
    find_run_to_resume,
    list_checkpoints,
    make_final_model,
    new_run_directory,
    place_of_run,
    run_places,
)


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BOLT_RAY_RUNS", raising=False)
    monkeypatch.delenv(JOB_VARIABLE, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def with_checkpoints(root: Path, *steps: int) -> RunDirectory:
    run = RunDirectory(root)
    for step in steps:
        (run.checkpoints / checkpoint_name(step)).mkdir(parents=True)
    return run


def test_a_run_is_below_the_working_directory(tmp_path: Path) -> None:
    assert new_run_directory("a/b", name="x").root == tmp_path / "a" / "b"
    run = new_run_directory(None, name="x")
    assert run.root.parent == tmp_path / "runs" and re.fullmatch(r"x-\d{8}-\d{6}", run.root.name)


def test_runs_of_one_name_that_begin_together_have_directories_of_their_own() -> None:
    names = {new_run_directory(None, name="x").root for _ in range(5)}
    assert len(names) == 5


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        new_run_directory(str(tmp_path / "file" / "run"), name="x")


@pytest.mark.parametrize("told", [True, False])
def test_in_a_job_a_relative_directory_is_below_that_of_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    monkeypatch.setenv(JOB_VARIABLE, "{}")
    shared = tmp_path / "home" / "bolt-ray-runs"
    if told:
        shared = tmp_path / "shared"
        monkeypatch.setenv("BOLT_RAY_RUNS", str(shared))
    assert run_places() == [shared]
    assert new_run_directory("a/b", name="x").root == shared / "a" / "b"
    assert new_run_directory(None, name="x").root.parent == shared
    assert new_run_directory(str(tmp_path / "elsewhere"), name="x").root == tmp_path / "elsewhere"
    newer = with_checkpoints(shared / "x-20260101-000000", 3)
    assert find_run_to_resume("auto", run_dir=None, name="x") == (newer, None)
    assert find_run_to_resume("x-20260101-000000", run_dir=None, name="y") == (newer, None)


def test_outside_of_a_job_the_directory_of_all_runs_is_looked_in_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOLT_RAY_RUNS", "/shared/runs")
    assert run_places() == [Path("runs"), Path("/shared/runs")]
    assert place_of_run("a") == tmp_path / "a"
    assert place_of_run("~/a") == tmp_path / "home" / "a"


def test_ray_copy_of_the_working_directory_takes_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    package.mkdir(parents=True)
    for named in (str(package / "run"), str(package)):
        with pytest.raises(CheckpointError, match=r"_ray_pkg_0123.*no other node sees.*BOLT_RAY_RUNS"):
            new_run_directory(named, name="x")
    monkeypatch.chdir(package)  # as a job's command is started
    assert new_run_directory("a", name="x").root == tmp_path / "home" / "bolt-ray-runs" / "a"
    monkeypatch.setenv("BOLT_RAY_RUNS", "runs")
    with pytest.raises(CheckpointError, match="no other node sees"):
        new_run_directory(None, name="x")
    assert list(package.iterdir()) == []


def test_resume_finds_the_newest_run_with_a_checkpoint(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = with_checkpoints(runs / "q-20260101-000000", 9)
    second = with_checkpoints(runs / "q-20260102-000000", 3, 4)
    (runs / "q-20260103-000000").mkdir()
    assert find_run_to_resume("auto", run_dir=None, name="q") == (second, None)
    assert find_run_to_resume("runs/q-20260101-000000", run_dir=None, name="q") == (first, None)
    third = with_checkpoints(runs / "q-20260102-000000-10", 1)
    with_checkpoints(runs / "q-20260102-000000-9", 1)
    assert find_run_to_resume("auto", run_dir=None, name="q") == (third, None)
    older = second.checkpoints / "step-000003"
    assert find_run_to_resume(str(older), run_dir=None, name="q") == (second, older)


def test_resume_takes_no_run_of_another_name(tmp_path: Path) -> None:
    """``gsm8k-*`` is what ``gsm8k-lora`` begins with, too."""
    runs = tmp_path / "runs"
    mine = with_checkpoints(runs / "gsm8k-20260101-000000", 5)
    for other in ("gsm8k-lora-20260102-000000", "gsm8k-20260102-000000-copy", "gsm8k-older"):
        with_checkpoints(runs / other, 7)
    assert find_run_to_resume("auto", run_dir=None, name="gsm8k") == (mine, None)
    with pytest.raises(CheckpointError, match=r"resume=auto: no checkpoint under .*runs/gsm-<time>; start without"):
        find_run_to_resume("auto", run_dir=None, name="gsm")
    with_checkpoints(runs / "a.b-20260101-000000", 1)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        find_run_to_resume("auto", run_dir=None, name="a?b")


def test_a_checkpoint_that_was_copied_out_of_its_run_names_no_run(tmp_path: Path) -> None:
    copied = tmp_path / "backup" / "step-000007"
    copied.mkdir(parents=True)
    assert find_run_to_resume(str(copied), run_dir="here", name="x") == (None, copied)


def test_resume_without_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"resume=auto: no checkpoint under .*start without resume"):
        find_run_to_resume("auto", run_dir=str(tmp_path), name="q")
    RunDirectory(tmp_path).config.write_text("seed: 0")
    with pytest.raises(CheckpointError, match="resume=if_any starts it anew in the same directory"):
        find_run_to_resume("auto", run_dir=str(tmp_path), name="q")


def test_the_final_model_replaces_one_of_fewer_steps(tmp_path: Path) -> None:
    run = with_checkpoints(tmp_path / "run", 2, 4)
    model = run.checkpoints / "step-000004" / "model"
    (model / "tokenizer").mkdir(parents=True)
    (model / "weights").write_text("new")
    run.final_model.mkdir()
    (run.final_model / "weights").write_text("old")
    (run.final_model / "more").write_text("old")
    (run.root / ".final").mkdir()  # a kill while it was copied
    make_final_model(run, step=4, resumed_from=run.checkpoints / "step-000004")
    assert sorted(path.name for path in run.final_model.iterdir()) == ["tokenizer", "weights"]
    assert (run.final_model / "weights").read_text() == "new"
    assert len(list_checkpoints(run)) == 2


def test_a_run_that_goes_on_from_a_copied_last_checkpoint_has_its_model(tmp_path: Path) -> None:
    (tmp_path / "backup" / "step-000004" / "model").mkdir(parents=True)
    (tmp_path / "backup" / "step-000004" / "model" / "weights").write_text("w")
    run = new_run_directory("run", name="x")
    make_final_model(run, step=4, resumed_from=tmp_path / "backup" / "step-000004")
    assert (run.final_model / "weights").read_text() == "w"
