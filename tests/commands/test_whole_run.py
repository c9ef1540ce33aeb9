"""What a whole run of stand-ins leaves in its directory for who looks at it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.effects import Workplace, config_of
from support.models import make_model
from support.wired_run import run_once
from typer.testing import CliRunner

from bolt_ray.cli import app


def test_status_tells_how_a_run_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = make_model(tmp_path / "model", tie_embeddings=True)
    settings = {"eval.every_steps": 6, "train.max_steps": 12, "rollout.rollouts_per_step": 8, "data.heldout_size": 2}
    done = run_once(config_of(settings), Workplace(directory=tmp_path, model=model))
    assert done["problem"] == ""
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    assert (state["ended"], state["error"], state["phase"]) == ("done", None, "stop")
    assert (state["step"], state["max_steps"], state["eta_s"]) == (12, 12, None)
    assert state["last_eval"]["step"] == 12
    # Every eighth completion gets no verdict.
    assert "unscored" in [verdict["rule"] for verdict in state["verdicts"]]
    assert state["last_warning"] is not None
    shown = CliRunner().invoke(app, ["status", "run"], env={"COLUMNS": "300"})
    assert shown.exit_code == 4
    for text in ("ended: done", "12/12", "completions get no reward", "step 12: "):
        assert text in shown.output, text
