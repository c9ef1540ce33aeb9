"""The main job on real parts: Ray Data, vLLM, scorers, DeepSpeed under Ray Train, baseline shards."""

from __future__ import annotations

import itertools
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from safetensors.numpy import load_file
from support.prometheus import Prometheus, expressions, names_in, prometheus
from support.sinks import wait_for, wandb_history
from support.training_runs import FinishedRun, check_preset, steps_of, wait_for_step, write_run_config
from typer.testing import CliRunner

from bolt_ray.cli import app
from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import load_config
from bolt_ray.core.baseline.sharded_snapshot import read_sharded_snapshot
from bolt_ray.training.telemetry.ray_metrics import MIRRORED, gauge_name
from bolt_ray.training.telemetry.record import read_metrics
from bolt_ray.training.telemetry.sample_files import read_samples, sample_files

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

STEP_METRICS = """
baseline/avg_v_hat baseline/avg_N_eff baseline/avg_kl_ema baseline/num_prompts baseline/min_v_hat baseline/max_v_hat
baseline/brier baseline/cold_fraction curriculum/n_tracked curriculum/mean_v_hat curriculum/std_v_hat
curriculum/mean_uncertainty curriculum/mean_weight curriculum/pct_easy curriculum/pct_hard curriculum/pct_learning_edge
curriculum/coverage reward/mean reward/std reward/unscored_fraction loss/policy loss/kl loss/entropy loss/total
policy/clip_fraction policy/ratio_ess policy/logprob_gap policy/logprob_gap_max policy/sync_gap policy/staleness_mean
policy/staleness_max policy/ratio_p1 policy/ratio_p99 policy/gen_kl policy/versions_mixed_fraction
completions/mean_length completions/truncated_fraction completions/min_length completions/max_length
completions/p10_length completions/p50_length completions/p90_length completions/p95_length loss/clip_low_fraction
loss/clip_high_fraction memory/driver_host memory/generator_host memory/learner_host memory/scorer_host
memory/shard_host memory/node_fraction engine/running engine/waiting engine/kv_usage engine/preemptions
total/completions total/tokens time/wall time/at time/generate time/score time/train
time/sync time/idle_generator time/idle_trainer time/step throughput/tokens_per_second throughput/samples_per_second
""".split()


def weights_of(model: Path) -> dict[str, np.ndarray]:
    return load_file(model / "model.safetensors")


@pytest.fixture(scope="session")
def watched(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus | None]:
    """Prometheus, scraping the cluster; None where it is not installed."""
    if shutil.which("prometheus") is None:
        yield None
        return
    (node,) = ray.nodes()
    target = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    with prometheus(tmp_path_factory.mktemp("prometheus"), [target]) as server:
        yield server


@pytest.fixture(scope="session")
def tied_run(watched: Prometheus | None, tied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Five steps of the preset spo from a warm start, with checkpoints, evaluation, an adaptive KL penalty, sinks."""
    directory = tmp_path_factory.mktemp("tied")
    values = {f"prompts_{row}": [1.0, 0.0, 0.0, 0.0] for row in range(64)}
    (directory / "baseline.json").write_text(json.dumps({"baselines": values}))
    return finish(
        directory,
        model_path=tied_model,
        algo="spo",
        baseline={"warm_start": str(directory / "baseline.json")},
        train={"max_steps": 5, "learning_rate": 1e-3},
        checkpoint={"every_steps": 2, "keep": 9},
        kl={"coef": 0.1, "adaptation": "sigmoid", "controller": "ziegler", "horizon": 100},
        logging={"wandb": "offline", "tensorboard": True},
    )


@pytest.fixture(scope="session")
def untied_run(ray_cluster: None, untied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Three steps of the preset baseline, which forgets nothing here, on two learner ranks."""
    return finish(
        tmp_path_factory.mktemp("untied"),
        model_path=untied_model,
        algo="baseline",
        train={"max_steps": 3, "learning_rate": 1e-3},
        cluster={"num_learners": 2},
        baseline={"estimator": "beta", "forgetting": "constant", "rho_max": 1.0},
        samples={"all": True},
    )


@pytest.fixture(scope="session")
def resumed_run(tied_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A copy of ``tied_run`` that lost what came after step 2 and went on from there."""
    cut = tmp_path_factory.mktemp("cut") / "run"
    shutil.copytree(tied_run.root, cut)
    for name in ("step-000004", "step-000005"):
        shutil.rmtree(cut / "checkpoints" / name)
    shutil.rmtree(cut / "final")
    config = load_config(tied_run.config_path, [f"run_dir={cut}", "resume=auto"])
    outcome = train(config)
    return FinishedRun(config=config, config_path=tied_run.config_path, root=cut, outcome=outcome)


DEADLY_LOSS = """
import json, os, signal
from pathlib import Path
from bolt_ray.core.losses.surrogates import clipped
from bolt_ray.training.telemetry.record import read_metrics

RUN = Path({run!r})

def deadly(tokens, options):
    done = sum("reward/mean" in record for record in read_metrics(RUN / "metrics.jsonl"))
    if done == 3 and not (RUN / "killed").exists():
        (RUN / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return clipped(tokens, options)
"""


@pytest.fixture(scope="session")
def recovered_run(tied_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """``tied_run`` once more; its learner rank is killed in the middle of the fourth step."""
    directory = tmp_path_factory.mktemp("recovered")
    run = directory / "run"
    (directory / "loss.py").write_text(DEADLY_LOSS.format(run=str(run)))
    changed = [f"run_dir={run}", f"loss.type={directory}/loss.py:deadly", "logging.wandb=null"]
    config = load_config(tied_run.config_path, changed)
    return FinishedRun(config=config, config_path=tied_run.config_path, root=run, outcome=train(config))


def finish(directory: Path, **settings: Any) -> FinishedRun:
    path = write_run_config(directory, **settings)
    config = load_config(path)
    return FinishedRun(config=config, config_path=path, root=directory / "run", outcome=train(config))


def check_samples(run: FinishedRun) -> None:
    """The samples are those of the steps and evaluations in the record; where all are kept, their means are its."""
    every = run.config.train.max_steps
    found = {(file.kind, file.step): read_samples(file.path) for file in sample_files(run.root / "samples")}
    evaluated = sorted({*range(0, every, 2), every})
    assert sorted(found) == [
        *(("eval", step) for step in evaluated),
        *(("train", step) for step in range(1, every + 1)),
    ]
    for record in run.steps:
        rows, torn = found["train", record["step"]]
        assert torn == 0 and 0 < len(rows) <= 16
        assert all(0.0 <= row["gap"] <= record["policy/logprob_gap_max"] * (1 + 1e-6) for row in rows)
        assert all(row["v_hat"] is not None and row["newest_version"] == record["step"] - 1 for row in rows)
        if run.config.samples.all:
            tokens = [row["num_tokens"] for row in rows]
            assert len(rows) == 16
            assert np.mean([row["reward"] for row in rows]) == pytest.approx(record["reward/mean"])
            assert np.average([row["gap"] for row in rows], weights=tokens) == pytest.approx(
                record["policy/logprob_gap"], rel=1e-3, abs=1e-9
            )
            assert {row["visits"] for row in rows} <= set(range(record["step"]))
    for step in evaluated:
        rows, _ = found["eval", step]
        assert len(rows) == 8
        (record,) = [each for each in read_metrics(run.root / "metrics.jsonl") if is_evaluation_at(each, step)]
        assert np.mean([row["correct"] for row in rows]) == record["eval/pass@1"]


def is_evaluation_at(record: dict[str, Any], step: int) -> bool:
    return record["step"] == step and "eval/pass@1" in record


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_a_run_trains_and_generator_and_learner_agree(kind: str, request: pytest.FixtureRequest) -> None:
    run: FinishedRun = request.getfixturevalue(f"{kind}_run")
    last = run.config.train.max_steps
    assert (run.outcome.steps, run.outcome.interrupted) == (last, False)
    assert run.outcome.initial_score is not None and run.outcome.initial_score.total == 8
    check_preset(run.root, run.config)
    assert [record["policy_version"] for record in run.steps] == list(range(1, last + 1))
    for record in run.steps:
        assert set(STEP_METRICS) <= set(record), set(STEP_METRICS) - set(record)
        assert record["policy/sync_gap"] <= 1e-3, "after the sync"
        assert record["policy/logprob_gap"] <= record["policy/logprob_gap_max"] <= 1e-3, "on every token trained"
        assert record["policy/staleness_max"] == 0
        assert record["rollout/completions"] == 16
        assert record["total/completions"] == 16 * record["step"]
        assert record["policy/ratio_p1"] == pytest.approx(1.0, abs=1e-3), "on-policy"
        assert record["policy/ratio_p99"] == pytest.approx(1.0, abs=1e-3)
        assert record["completions/min_length"] <= record["completions/p50_length"] <= record["completions/max_length"]
        for role in ("driver", "generator", "learner", "scorer", "shard"):
            assert record[f"memory/{role}_host"] > 30 * 2**20, role
        assert 0.0 < record["memory/node_fraction"] < 1.0
        assert 0.0 < record["engine/running"] <= 16 and 0.0 < record["engine/kv_usage"] < 1.0
    evaluations = [record for record in read_metrics(run.root / "metrics.jsonl") if "eval/pass@1" in record]
    assert [record["step"] for record in evaluations] == [*range(0, last, 2), last]
    assert "generator is replaced" not in (run.root / "run.log").read_text(encoding="utf-8")
    check_samples(run)
    table = (run.root / "metrics.csv").read_text().splitlines()
    assert len(table) == 1 + len(run.steps) + len(evaluations)

    final = run.root / "final"
    before, after = weights_of(Path(run.config.model.name_or_path)), weights_of(final)
    assert set(before) == set(after)
    assert any(not np.array_equal(before[name], after[name]) for name in before)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(final)
    tokenizer = AutoTokenizer.from_pretrained(final)
    assert loaded.generate(**tokenizer("1+2=", return_tensors="pt"), max_new_tokens=2).shape[1] >= 5


def test_the_baseline_learns_every_outcome_once_and_never_from_evaluation(untied_run: FinishedRun) -> None:
    (checkpoint,) = (untied_run.root / "checkpoints").iterdir()
    columns = read_sharded_snapshot(checkpoint / "baseline").columns
    alpha, beta = columns["alpha"], columns["beta"]
    # Without forgetting α + β grows by exactly one per completion, beyond the prior's two per prompt.
    evidence = float(np.sum(alpha + beta)) - 2.0 * len(alpha)
    assert evidence == pytest.approx(3 * 16)
    rewards = sum(record["reward/mean"] * 16 for record in untied_run.steps)
    assert float(np.sum(alpha)) - len(alpha) == pytest.approx(rewards)


def test_a_warm_start_is_where_the_tracker_begins(tied_run: FinishedRun) -> None:
    said = " ".join((tied_run.root / "run.log").read_text(encoding="utf-8").split())
    assert "Warm start: 56 of 56 prompts (100.0%)" in said
    first = tied_run.steps[0]
    assert first["baseline/cold_fraction"] == 0.0
    # (1 + .5) / (4 + 1) for every prompt, and N₀ = 8 outcomes' worth of it. Each of the 16 drawn ones decays to at
    # least 8·.875 = 7 and takes in one outcome: v̂ = (.3·7 + r) / 8 from .2625 to .3875; the other 40 of 56 stay.
    low, high = ((40 * 0.3 + 16 * drawn) / 56 for drawn in (0.2625, 0.3875))
    assert low - 1e-6 <= first["baseline/avg_v_hat"] <= high + 1e-6


def test_resume_continues_as_if_nothing_had_happened(tied_run: FinishedRun, resumed_run: FinishedRun) -> None:
    check_the_same(resumed_run, tied_run)


def test_a_run_whose_learner_is_killed_ends_as_if_nothing_had_happened(
    tied_run: FinishedRun, recovered_run: FinishedRun
) -> None:
    assert (recovered_run.root / "killed").exists()
    assert [record["cluster/learner_restarts"] for record in recovered_run.steps] == [0.0, 0.0, 1.0, 1.0, 1.0]
    check_the_same(recovered_run, tied_run)
    said = " ".join((recovered_run.root / "run.log").read_text(encoding="utf-8").split())
    assert "the learner is lost and starts again from step-000002" in said
    # Beside the learner and what belongs to it nothing was started again.
    assert "generator is replaced" not in said
    assert all(record["reward/scorer_restarts"] == 0.0 for record in recovered_run.steps)


def check_the_same(run: FinishedRun, uninterrupted: FinishedRun) -> None:
    """The same draws, completions, rewards, baseline and weights, step by step."""
    assert run.outcome.steps == 5
    expected, found = uninterrupted.steps, run.steps
    assert [record["step"] for record in found] == [1, 2, 3, 4, 5]
    walls = [record["time/wall"] for record in found]
    assert walls == sorted(walls), "goes on where the first part ended"
    # Exactly equal, although the text is sampled: prompts, v̂ and the seed of every request come from the checkpoint, a
    # step trains its completions in the order of their requests, and max_staleness is 0. Only which requests share an
    # engine step depends on timing: it moves log-probs by 1e-6, and a token's two best candidates with their noise are
    # about 1 apart. Weights, and v̂ that decays with their drift, are compared with a tolerance for the same reason.
    for name in ("reward/mean", "baseline/num_prompts", "completions/mean_length", "total/completions", "total/tokens"):
        assert [record[name] for record in found] == [record[name] for record in expected], name
    values = ([record["baseline/avg_v_hat"] for record in records] for records in (found, expected))
    np.testing.assert_allclose(*values, rtol=0, atol=1e-5)
    for file in sample_files(uninterrupted.root / "samples"):
        theirs, mine = (read_samples(path)[0] for path in (file.path, run.root / "samples" / file.path.name))
        for name in ("prompt_id", "completion", "reward", "visits"):
            assert [row[name] for row in mine] == [row[name] for row in theirs], (file.path.name, name)
    for name, tensor in weights_of(uninterrupted.root / "final").items():
        np.testing.assert_allclose(weights_of(run.root / "final")[name], tensor, rtol=0, atol=1e-6, err_msg=name)


def test_adaptive_kl_is_logged_and_its_controller_survives_a_resume(
    tied_run: FinishedRun, resumed_run: FinishedRun
) -> None:
    for run in (tied_run, resumed_run):
        betas = [record["adaptive_kl/current_beta"] for record in run.steps]
        assert betas[0] != 0.1 or betas[1] != 0.1
        # e·n/horizon changes β by at most 0.2 · 16 / 100 a step, also across the resume.
        assert all(abs(b / a - 1) <= 0.2 * 16 / 100 + 1e-6 for a, b in itertools.pairwise(betas)), betas
        assert all(record["adaptive_kl/adapted_kl"] <= record["adaptive_kl/raw_kl"] for record in run.steps)


def test_prometheus_scrapes_a_run_and_answers_every_query_of_the_dashboard(
    tied_run: FinishedRun, watched: Prometheus | None
) -> None:
    if watched is None:
        pytest.skip("prometheus (Debian's package) is not installed")
    wait_for(lambda: watched.value('max_over_time(ray_bolt_ray_step{run="run"}[1h])') == 5.0)
    seen = set(watched.ask("label/__name__/values"))
    recorded = {name for record in read_metrics(tied_run.root / "metrics.jsonl") for name in record}
    mirrored = {f"ray_{gauge_name(name)}" for name in MIRRORED if name in recorded}
    assert len(mirrored) >= 25 and mirrored <= seen
    for expression in expressions():
        answer = watched.ask("query", query=expression)
        # What an earlier run of this Ray alone had is seen, but has no value now.
        valued = all(watched.ask("query", query=name)["result"] for name in names_in(expression))
        assert answer["result"] or not valued, expression


def test_wandb_and_tensorboard_have_the_record_of_a_run(tied_run: FinishedRun, resumed_run: FinishedRun) -> None:
    """Read by their own libraries; a resumed run goes on with the same id, and hides what it trains again."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    records = read_metrics(tied_run.root / "metrics.jsonl")
    (file,) = (tied_run.root / "wandb").glob("offline-run-*/*.wandb")
    rows = [row for row in wandb_history(file) if "policy_version" in row]
    assert [row["step"] for row in rows] == [record["step"] for record in records]
    assert all(
        row[name] == pytest.approx(record[name]) for row, record in zip(rows, records, strict=True) for name in record
    )
    files = (resumed_run.root / "wandb").glob("offline-run-*/*.wandb")
    assert [other.name for other in files] == [file.name] * 2
    read = EventAccumulator(str(resumed_run.root / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    shown = [(event.step, event.value) for event in read.Scalars("reward/mean")]
    assert shown == [(record["step"], pytest.approx(record["reward/mean"])) for record in resumed_run.steps]


def test_ctrl_c_saves_and_leaves_by_130(ray_cluster: None, write_config: Callable[..., Path], tmp_path: Path) -> None:
    """The run starts a Ray of its own, beside the session's. SIGTERM: test_own_data.py."""
    config = write_config(train={"max_steps": 10_000}, eval={"every_steps": 0, "at_start": False})
    command = [sys.executable, "-m", "bolt_ray.cli", "train", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    run = tmp_path / "run"
    wait_for_step(run, 2, alive=lambda: process.poll() is None)
    status = CliRunner().invoke(app, ["status", str(run)])
    assert (status.exit_code, process.poll()) == (0, None), status.output
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 130, output
    status = CliRunner().invoke(app, ["status", str(run)])
    assert status.exit_code == 4 and "ended: interrupted" in status.output, status.output
    assert "SIGINT: saving step" in output and "Interrupted. Go on with: resume=" in output
    (checkpoint,) = (run / "checkpoints").iterdir()
    done = json.loads((checkpoint / "state.json").read_text())["step"]
    assert done >= 2
    assert [record["step"] for record in steps_of(run)] == list(range(1, done + 1))


def test_a_signal_in_the_start_up_leaves_by_130(write_config: Callable[..., Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bolt_ray.cli", "train", str(write_config())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for((tmp_path / "run" / "state.json").exists)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 130, output
    assert "Traceback" not in output and "interrupted" in output
    assert json.loads((tmp_path / "run" / "state.json").read_text())["ended"] == "interrupted"
