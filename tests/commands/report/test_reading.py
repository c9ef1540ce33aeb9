"""What the report reads of a run directory, whatever state that is in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.report_runs import sample, write_run

from bolt_ray.commands.report import reading
from bolt_ray.commands.report.reading import read_run
from bolt_ray.commands.status.condition import Standing
from bolt_ray.core.errors import CheckpointError


def test_steps_and_evaluations_in_their_order(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", steps=3, evaluations={0: 0.2, 3: 0.5}))
    assert [record["step"] for record in run.steps] == [1, 2, 3]
    assert [(record["step"], record["eval/pass@1"]) for record in run.evaluations] == [(0, 0.2), (3, 0.5)]
    assert run.last_step == 3
    assert run.notes == []


def test_a_torn_last_line_is_no_news_but_damage_before_it_is(tmp_path: Path) -> None:
    torn = read_run(write_run(tmp_path / "torn", steps=2, tail='{"step": 3, "rew'))
    assert (torn.last_step, torn.notes) == (2, [])
    damaged = read_run(
        write_run(tmp_path / "damaged", steps=2, tail='{"step": \n[1]\n{"step": 3, "reward/mean": 1.0}\n')
    )
    assert damaged.last_step == 3
    assert damaged.notes == ["metrics.jsonl: 2 lines cannot be read and were left out."]


def test_a_line_torn_within_a_character(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", steps=2)
    with (root / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 3, "reward/part/ü'.encode()[:-1])
    assert read_run(root).last_step == 2


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / "config.yaml").write_text("algo: bolt\n")
    run = read_run(root)
    assert (run.steps, run.evaluations, run.samples, run.last_step) == ([], [], [], 0)


def test_a_missing_and_a_damaged_config_are_noted(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", config=None))
    assert (run.config, run.notes) == ({}, ["config.yaml is missing."])
    (run.path / "config.yaml").write_text("a: [")
    assert "config.yaml:1:5: not valid YAML" in read_run(run.path).notes[0]


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "empty"])
def test_what_is_no_run(tmp_path: Path, make: object) -> None:
    path = tmp_path / "nothing"
    assert callable(make)
    make(path)
    with pytest.raises(CheckpointError, match=r"nothing: (there is no such directory|not a run of bolt-ray)"):
        read_run(path)


def test_secrets_of_the_configuration_are_not_read(tmp_path: Path) -> None:
    config = {"rewards": [{"type": "http", "headers": {"x-api": "hunter2hunter2"}, "url": "https://me:pw@host/"}]}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(json.dumps(config))
    shown = json.dumps(read_run(tmp_path / "run").config)
    assert "hunter2hunter2" not in shown
    assert "me:pw" not in shown
    assert "host/" in shown


def test_how_the_run_stands_is_read_and_a_foreign_state_is_noted(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", steps=2)
    assert read_run(root).condition is None
    (root / "state.json").write_text(json.dumps({"version": 1, "ended": "done", "error": None}))
    found = read_run(root).condition
    assert found is not None
    assert (found.standing, found.text) == (Standing.ENDED, "done")
    (root / "state.json").write_text('{"version": 99}')
    run = read_run(root)
    assert run.condition is None
    assert "not a state this version of bolt-ray knows" in run.notes[0]


def test_samples_by_step_and_spread_over_the_run_where_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"step-{step:06d}": [sample(step, i) for i in range(4)] for step in (2, 10, 100, 1000, 1_000_000)}
    root = write_run(tmp_path / "run", samples=files)
    run = read_run(root)
    assert [row["step"] for row in run.samples][::4] == [2, 10, 100, 1000, 1_000_000]
    monkeypatch.setattr(reading, "MAX_SAMPLES", 12)
    few = read_run(root)
    assert [row["step"] for row in few.samples][::4] == [2, 100, 1_000_000]
    assert (len(few.samples), few.num_samples) == (12, 20)


def test_long_samples_are_spread_over_the_run_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"step-{step:06d}": [sample(step, 1, completion="x" * 1000)] for step in range(1, 10)}
    root = write_run(tmp_path / "run", samples=files)
    monkeypatch.setattr(reading, "MAX_SAMPLE_BYTES", 7000)
    run = read_run(root)
    assert [row["step"] for row in run.samples] == [1, 3, 5, 7, 9]
    assert run.num_samples == 9


def test_a_torn_file_of_samples_is_noted(tmp_path: Path) -> None:
    root = write_run(tmp_path / "run", steps=2, samples={"step-000002": [sample(2, 1)]})
    with (root / "samples" / "step-000002.jsonl").open("a") as file:
        file.write('{"step": 2, "comp')
    run = read_run(root)
    assert (len(run.samples), run.num_samples) == (1, 1)
    assert run.notes == ["samples/: 1 lines cannot be read and were left out."]
