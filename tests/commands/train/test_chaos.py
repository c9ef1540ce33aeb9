"""Processes of a real training get SIGKILL; `jobs/benchmarks/chaos.py` does more of this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
from chaos import train_on
from chaos_checks import check_run
from chaos_run import Kill, read_lines, write_plan
from chaos_scenarios import Scenario, write_config

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

KILLS = (
    Kill(target="shard", phase="committing", part=0.0),
    Kill(target="everything", phase="checkpointing", part=0.5),
)


def trained(directory: Path, kills: Sequence[Kill], *, model: Path, address: str | None) -> Path:
    """A finished training of eight steps, with or without kills."""
    directory.mkdir()
    write_config(directory, Scenario(target=None, staleness=0, phases=(), steps=8), model=model, address=address)
    write_plan(directory, kills, first_step=2)
    assert train_on(directory, each_second=lambda: None) == ""
    return directory


def test_kill_9_of_everything_and_resume_is_the_training_without_kills(
    ray_cluster: None, untied_model: Path, tmp_path: Path
) -> None:
    """Weights, baseline, draws and every completion, after a kill while a checkpoint was written."""
    address = ray.get_runtime_context().gcs_address
    reference = trained(tmp_path / "reference", [], model=untied_model, address=address)
    killed = trained(tmp_path / "killed", KILLS, model=untied_model, address=None)
    assert len(read_lines(killed / "recovered.jsonl")) == len(KILLS)
    for directory, other in ((reference, None), (killed, reference)):
        wrong = [check for check in check_run(directory, reference=other, exact=True) if not check.right]
        assert not wrong, wrong
