"""The report of a whole run of stand-ins: what the run's own files give it."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.effects import Workplace, config_of
from support.models import make_model
from support.report_runs import data_of
from support.wired_run import run_once

from bolt_ray.commands.report.report import report_html
from bolt_ray.training.telemetry.sample_rows import Row


def test_the_files_of_a_run_make_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = make_model(tmp_path / "model", tie_embeddings=True)
    settings = {"eval.every_steps": 6, "train.max_steps": 12, "rollout.rollouts_per_step": 8, "data.heldout_size": 2}
    assert run_once(config_of(settings), Workplace(directory=tmp_path, model=model))["problem"] == ""
    (run,) = data_of(report_html([tmp_path / "run"]))["runs"]
    assert run["notes"] == []
    assert run["axes"]["step"] == list(range(1, 13))
    assert run["evaluations"]["axes"]["step"] == [0, 6, 12]
    assert "The run has ended after step 12 of 12: done." in run["story"]
    # Every eighth completion gets no verdict.
    assert "unscored" in [verdict["rule"] for verdict in run["verdicts"]]
    samples = run["samples"]
    rows: list[Row] = [dict(zip(samples["columns"], row, strict=True)) for row in samples["rows"]]
    assert {row["kind"] for row in rows} == {"train", "eval"}
    unscored = next(row for row in rows if "unscored" in row["why"])
    assert samples["texts"][unscored["unscored"]]
    assert samples["texts"][unscored["completion"]]
