"""A store trained under Ray warm-starts TRL's trainer, and the other way round."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.trl_runs import rows, trainer

from bolt_ray.core.baseline import BaselineStore
from bolt_ray.core.baseline.sharded_snapshot import shard_file, write_manifest
from bolt_ray.core.baseline.snapshot import write_snapshot
from bolt_ray.core.errors import CheckpointError
from bolt_ray.integrations.trl import write_warm_start
from bolt_ray.integrations.trl.baseline import row_key
from bolt_ray.integrations.trl.convert import find_store, warm_start

KEYS = [row_key(row) for row in rows()]


def trained_store(estimator: str = "two_level") -> BaselineStore:
    """Twelve visits of each prompt, whose success rates lie apart and rise."""
    store = BaselineStore(estimator=estimator)  # type: ignore[arg-type]
    store.register(KEYS, ["arithmetic"] * len(KEYS))
    rng = np.random.default_rng(0)
    rates = np.linspace(0.05, 0.7, len(KEYS))
    for visit in range(12):
        outcomes = rng.random(len(KEYS)) < rates + 0.02 * visit
        store.update_many(KEYS, outcomes.astype(float), [1] * len(KEYS), drift=0.01, versions=visit)
    return store


def run_under_ray(directory: Path, store: BaselineStore) -> Path:
    """The part of a run's directory that holds its store, in two shards."""
    baseline = directory / "checkpoints" / "step-000012" / "baseline"
    baseline.mkdir(parents=True)
    snapshot = store.snapshot()
    for shard in range(2):
        write_snapshot(shard_file(baseline, shard, 2), snapshot.take(snapshot.keys.shards(2) == shard))
    write_manifest(baseline, num_shards=2, counters=snapshot.counters)
    return directory


@pytest.mark.parametrize("estimator", ["two_level", "beta"])
def test_a_store_under_ray_starts_trl_with_its_values(tmp_path: Path, tiny_model: Path, estimator: str) -> None:
    store = trained_store(estimator)
    source = run_under_ray(tmp_path / "run", store)
    run = trainer(tiny_model, tmp_path / "out", estimator=estimator, baseline_warm_start=str(source))
    found, wanted = run.baseline.store.read(KEYS), store.read(KEYS)
    assert np.abs(found.v_hat - wanted.v_hat).max() < (1e-9 if estimator == "beta" else 0.03)
    assert np.allclose(found.n_eff, wanted.n_eff)
    assert (found.last_version == -1).all()
    run.train()
    assert run.baseline.store.counters.version == 2


def test_a_store_of_trl_starts_a_run_under_ray_with_its_values(tmp_path: Path, tiny_model: Path) -> None:
    """Through the file that baseline.warm_start reads; the run there has its own rows and shards."""
    run = trainer(tiny_model, tmp_path / "out", max_steps=6, save_strategy="steps", save_steps=3)
    run.train()
    done = subprocess.run(
        [sys.executable, "-m", "bolt_ray.integrations.trl.convert", str(tmp_path / "out"), str(tmp_path / "warm.json")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    tracked = len(run.baseline.store)
    assert done.stdout.strip() == f"{tracked} prompts: baseline.warm_start={tmp_path / 'warm.json'}", done.stderr
    other = BaselineStore()
    other.register(KEYS)
    report = other.load_from_json(tmp_path / "warm.json")
    assert report.hits == tracked
    known = np.array([key in set(run.baseline.store.snapshot().keys.strings()) for key in KEYS])
    found, wanted = other.read(KEYS), run.baseline.store.read(KEYS)
    assert np.abs(found.v_hat - wanted.v_hat)[known].max() < 0.05
    assert np.allclose(found.n_eff[known], wanted.n_eff[known])


def test_the_newest_store_is_found(tmp_path: Path) -> None:
    for step in (8, 24, 100):
        place = tmp_path / f"checkpoint-{step}"
        place.mkdir()
        trained_store().save(place / "bolt_ray_baseline.npz")
    assert find_store(tmp_path) == tmp_path / "checkpoint-100" / "bolt_ray_baseline.npz"
    assert find_store(tmp_path / "checkpoint-8").parent.name == "checkpoint-8"
    with pytest.raises(CheckpointError, match="no store of a baseline there; give a run or a checkpoint"):
        find_store(tmp_path / "elsewhere")


def test_a_store_of_other_prompts_is_told(tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = BaselineStore()
    store.update_many(KEYS[:6], [1.0] * 6, [1] * 6)
    store.save(tmp_path / "bolt_ray_baseline.npz")
    trainer(tiny_model, tmp_path / "out", baseline_warm_start=str(tmp_path))
    assert "only 6 of 24 prompts (25.0%) start warm" in caplog.text


def test_what_fits_no_row_is_refused(tmp_path: Path) -> None:
    trained_store().save(tmp_path / "bolt_ray_baseline.npz")
    other = BaselineStore()
    other.register(["another"])
    with pytest.raises(CheckpointError, match="belongs to a prompt of the data set"):
        warm_start(other, tmp_path)
    assert write_warm_start(tmp_path, tmp_path / "warm.json") == len(KEYS)
    assert set(json.loads((tmp_path / "warm.json").read_text(encoding="utf-8"))["baselines"]) == set(KEYS)
