"""The main job on real parts: Ray Data, vLLM, scorers, DeepSpeed under Ray Train, baseline shards."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import load_config
from bolt_ray.core.baseline.sharded_snapshot import read_sharded_snapshot
from bolt_ray.training.telemetry import read_metrics

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

STEP_METRICS = """
baseline/avg_v_hat baseline/avg_N_eff baseline/avg_kl_ema baseline/num_prompts baseline/min_v_hat baseline/max_v_hat
baseline/brier baseline/cold_fraction curriculum/n_tracked curriculum/mean_v_hat curriculum/std_v_hat
curriculum/mean_uncertainty curriculum/mean_weight curriculum/pct_easy curriculum/pct_hard curriculum/pct_learning_edge
curriculum/coverage reward/mean reward/std reward/unscored_fraction loss/policy loss/kl loss/entropy loss/total
policy/clip_fraction policy/ratio_ess policy/logprob_gap policy/logprob_gap_max policy/sync_gap policy/staleness_mean
policy/staleness_max completions/mean_length completions/truncated_fraction time/generate time/score time/train
time/sync time/idle_generator time/idle_trainer time/step throughput/tokens_per_second throughput/samples_per_second
""".split()


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [record for record in read_metrics(run / "metrics.jsonl") if "reward/mean" in record]


def weights_of(model: Path) -> dict[str, np.ndarray]:
    return load_file(model / "model.safetensors")


@pytest.mark.parametrize("tied", [True, False])
def test_a_run_trains_and_generator_and_learner_agree(
    ray_cluster: None, write_config: Callable[..., Path], untied_model: Path, tmp_path: Path, tied: bool
) -> None:
    model = {} if tied else {"name_or_path": str(untied_model)}
    config = load_config(write_config(model=model))
    outcome = train(config, base_dir=tmp_path)
    assert (outcome.steps, outcome.interrupted) == (3, False)
    assert outcome.initial_score is not None and outcome.initial_score.total == 8
    steps = steps_of(tmp_path / "run")
    assert [record["policy_version"] for record in steps] == [1, 2, 3]
    for record in steps:
        assert set(STEP_METRICS) <= set(record), set(STEP_METRICS) - set(record)
        assert record["policy/sync_gap"] <= 1e-3, "after the sync"
        assert record["policy/logprob_gap"] <= record["policy/logprob_gap_max"] <= 1e-3, "on every token trained"
        assert record["policy/staleness_max"] == 0
        assert record["rollout/completions"] == 16
    evaluations = [record for record in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval/pass@1" in record]
    assert [record["step"] for record in evaluations] == [0, 2, 3]
    assert "generator is replaced" not in (tmp_path / "run" / "run.log").read_text(encoding="utf-8")
    table = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    assert len(table) == 1 + len(steps) + len(evaluations)

    final = tmp_path / "run" / "final"
    before, after = weights_of(Path(config.model.name_or_path)), weights_of(final)
    assert set(before) == set(after)
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(final)
    tokenizer = AutoTokenizer.from_pretrained(final)
    assert loaded.generate(**tokenizer("1+2=", return_tensors="pt"), max_new_tokens=2).shape[1] >= 5


def test_the_baseline_learns_every_outcome_once_and_never_from_evaluation(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    train(load_config(write_config(baseline={"forgetting": "constant", "rho_max": 1.0})), base_dir=tmp_path)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    columns = read_sharded_snapshot(checkpoint / "baseline").columns
    alpha, beta = columns["alpha"], columns["beta"]
    # Without forgetting α + β grows by exactly one per completion, beyond the prior's two per prompt.
    evidence = float(np.sum(alpha + beta)) - 2.0 * len(alpha)
    assert evidence == pytest.approx(3 * 16)
    rewards = sum(record["reward/mean"] * 16 for record in steps_of(tmp_path / "run"))
    assert float(np.sum(alpha)) - len(alpha) == pytest.approx(rewards)


def test_one_version_of_staleness_overlaps_and_is_never_exceeded(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    train(load_config(write_config(rollout={"max_staleness": 1}, train={"max_steps": 6})), base_dir=tmp_path)
    steps = steps_of(tmp_path / "run")
    ages = [record["policy/staleness_max"] for record in steps]
    assert ages[0] == 0 and set(ages) == {0, 1}, ages
    assert all(record["policy/sync_gap"] <= 1e-3 for record in steps)


def test_resume_continues_as_if_nothing_had_happened(
    ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    settings: dict[str, Any] = {
        "checkpoint": {"every_steps": 2, "keep": 9},
        "train": {"max_steps": 5},
        "eval": {"every_steps": 0},
    }
    train(load_config(write_config(**settings)), base_dir=tmp_path)
    whole = tmp_path / "run"
    cut = tmp_path / "cut"
    shutil.copytree(whole, cut)
    for name in ("step-000004", "step-000005"):
        shutil.rmtree(cut / "checkpoints" / name)
    shutil.rmtree(cut / "final")
    config = load_config(write_config(run_dir=str(cut), **settings), ["resume=auto"])
    assert train(config, base_dir=tmp_path).steps == 5

    expected, found = steps_of(whole), steps_of(cut)
    assert [record["step"] for record in found] == [1, 2, 3, 4, 5]
    # Exactly equal, although the text is sampled: prompts, v̂ and the seed of every request come from the checkpoint, a
    # step trains its completions in the order of their requests, and max_staleness is 0. Only which requests share an
    # engine step depends on timing: it moves log-probs by 1e-6, and a token's two best candidates with their noise are
    # about 1 apart. Weights, and v̂ that decays with their drift, are compared with a tolerance for the same reason.
    for name in ("reward/mean", "baseline/num_prompts", "completions/mean_length"):
        assert [record[name] for record in found] == [record[name] for record in expected], name
    values = ([record["baseline/avg_v_hat"] for record in records] for records in (found, expected))
    np.testing.assert_allclose(*values, rtol=0, atol=1e-5)
    for name, tensor in weights_of(whole / "final").items():
        np.testing.assert_allclose(weights_of(cut / "final")[name], tensor, rtol=0, atol=1e-6, err_msg=name)


def interrupt(command: list[str], number: signal.Signals, metrics: Path, *, at_step: int) -> str:
    """Start a run, send it a signal once it has finished a step, and return what it printed; it must leave by 130."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 300
    while not any(record["step"] >= at_step for record in read_metrics(metrics)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"no step {at_step} within 300 s"
        time.sleep(0.2)
    process.send_signal(number)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 130, output
    return output


def test_ctrl_c_and_sigterm_save_and_resume_goes_on(write_config: Callable[..., Path], tmp_path: Path) -> None:
    config = write_config(train={"max_steps": 10_000}, eval={"every_steps": 0, "at_start": False})
    command = [sys.executable, "-m", "bolt_ray.cli", "train", str(config)]
    run = tmp_path / "run"
    first = interrupt(command, signal.SIGINT, run / "metrics.jsonl", at_step=2)
    assert "SIGINT: saving step" in first and "Interrupted. Go on with: resume=" in first
    (checkpoint,) = (run / "checkpoints").iterdir()
    done = json.loads((checkpoint / "state.json").read_text())["step"]
    assert done >= 2

    second = interrupt([*command, "resume=auto"], signal.SIGTERM, run / "metrics.jsonl", at_step=done + 2)
    assert "SIGTERM: saving step" in second
    newest = max((run / "checkpoints").iterdir())
    last = json.loads((newest / "state.json").read_text())["step"]
    assert last >= done + 2
    assert [record["step"] for record in steps_of(run)] == list(range(1, last + 1))
