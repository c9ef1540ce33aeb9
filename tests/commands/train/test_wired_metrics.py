"""What a run put together by the command's own assembly tells of itself; the parts that need Ray are stand-ins."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.effects import Workplace, config_of
from support.fakes import tokens_of
from support.models import make_model
from support.wired_run import run_once

from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.record import read_metrics


def test_a_run_tells_of_its_time_its_totals_its_processes_and_its_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "model", tie_embeddings=True)
    monkeypatch.chdir(tmp_path)
    here = Workplace(directory=tmp_path, model=model)
    assert run_once(config_of({"rollout.group_size": 2}), here)["problem"] == ""
    records = read_metrics(RunDirectory(tmp_path / "run").metrics_jsonl)
    assert all(0.0 < record["time/wall"] < 600.0 and record["time/at"] > 1.7e9 for record in records)
    steps = [record for record in records if "reward/mean" in record]
    assert [record["total/completions"] for record in steps] == [4.0, 8.0, 12.0, 16.0]
    assert steps[-1]["total/tokens"] == sum(len(tokens_of(number)) for number in range(16))
    for record in steps:
        assert record["memory/driver_host"] > 50 * 2**20
        assert 0.0 < record["memory/node_fraction"] <= 1.0
        assert record["engine/kv_usage"] == 0.25
        assert record["completions/min_length"] <= record["completions/p50_length"] <= record["completions/max_length"]
        # 0.4, 0.6 and 0.8, 1.0 by turns: no group without variance.
        assert record["reward/zero_std_fraction"] == 0.0
        assert record["reward/source/rows"] == record["reward/mean"]
