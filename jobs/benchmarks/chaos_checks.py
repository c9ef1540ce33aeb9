"""What must be true of a training whose processes were killed; see ``chaos.py``."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from chaos_run import read_lines
from safetensors.numpy import load_file

from bolt_ray.config.loading import load_config
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.baseline.sharded_snapshot import read_sharded_snapshot
from bolt_ray.core.baseline.store import BaselineStore
from bolt_ray.data.store import PromptStore
from bolt_ray.training.checkpoints import read_checkpoint
from bolt_ray.training.run_directory import RunDirectory, list_checkpoints
from bolt_ray.training.telemetry.record import read_metrics

LARGEST_GAP = 1e-3
"""Of log-probs between generators and learner after a sync, in nats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at; ``found`` in words where it does not hold."""

    name: str
    right: bool
    found: str


def check_run(directory: Path, *, reference: Path | None, exact: bool) -> list[Check]:
    """All checks of a finished training.

    Args:
        directory: of `chaos.py`, with the run and what was noted of it.
        reference: the same without kills; None: this is it.
        exact: every completion must be the reference's (staleness 0); otherwise the accuracy must be as good.
    """
    run = RunDirectory(directory / "run")
    config = load_config(run.config)
    steps = [record for record in read_metrics(run.metrics_jsonl) if "reward/mean" in record]
    outcomes = {record["step"]: record for record in read_lines(directory / "outcomes.jsonl")}
    state = read_checkpoint(list_checkpoints(run)[-1])
    checks = [
        _check_steps(steps, outcomes, config),
        _check_versions(steps, outcomes, state, config),
        check_accounting(outcomes, state),
        _check_baseline(run, outcomes, config),
    ]
    if reference is not None:
        checks += _compared(directory, reference, exact=exact)
    return checks


def _check_steps(steps: list[dict[str, Any]], outcomes: dict[int, Any], config: RunConfig) -> Check:
    wanted = list(range(1, config.train.max_steps + 1))
    found = [record["step"] for record in steps]
    return Check(name="steps", right=found == wanted == sorted(outcomes), found=f"{found}, noted {sorted(outcomes)}")


def _check_versions(
    steps: list[dict[str, Any]], outcomes: dict[int, Any], state: dict[str, Any], config: RunConfig
) -> Check:
    """Each step made one version, every generator had it, and no completion was older than allowed."""
    wrong = [f"step {record['step']} made version {record['version']}" for record in outcomes.values()]
    wrong = [text for text, record in zip(wrong, outcomes.values(), strict=True) if record["version"] != record["step"]]
    wrong += [
        f"step {record['step']}: gap {record.get('policy/sync_gap')}"
        for record in steps
        if not record.get("policy/sync_gap", math.inf) <= LARGEST_GAP
    ]
    oldest = max(record["policy/staleness_max"] for record in steps)
    if oldest > config.rollout.max_staleness:
        wrong.append(f"a completion {oldest:g} versions old was trained")
    if state["version"] != config.train.max_steps:
        wrong.append(f"the checkpoint is of version {state['version']}")
    return Check(name="versions", right=not wrong, found="; ".join(wrong))


def check_accounting(outcomes: dict[int, Any], state: dict[str, Any]) -> Check:
    """Every request ever numbered was trained once, left out once, or is in flight: exactly one of these."""
    in_flight = [request["request_id"] for request in state["rollout"]["in_flight"]]
    trained = [number for record in outcomes.values() for number in record["trained"]]
    left_out = [number for record in outcomes.values() for number in record["left_out"]]
    met = Counter([*trained, *left_out, *in_flight])
    dispatched = range(state["rollout"]["next_request_id"])
    twice = [number for number, times in met.items() if times > 1]
    lost = [number for number in dispatched if number not in met]
    return Check(
        name="accounting",
        right=not twice and not lost and len(met) == len(dispatched),
        found=f"{len(dispatched)} dispatched = {len(trained)} trained + {len(left_out)} left out + {len(in_flight)} in "
        f"flight; lost {lost[:5]}, twice {twice[:5]}",
    )


def _check_baseline(run: RunDirectory, outcomes: dict[int, Any], config: RunConfig) -> Check:
    """The shards' last snapshot is what one store makes of all outcomes, taken one step after another."""
    expected, found = store_of_the_prompts(config), store_of_the_prompts(config)
    replay(outcomes, into=expected, config=config)
    found.restore([read_sharded_snapshot(list_checkpoints(run)[-1] / "baseline")])
    keys = sorted({key for record in outcomes.values() for key, *_ in record["scored"]})
    ours, theirs = (store.read(keys, config.train.max_steps) for store in (expected, found))
    apart = float(np.max(np.abs(ours.v_hat - theirs.v_hat)))
    same = bool((ours.visits == theirs.visits).all() and (ours.last_version == theirs.last_version).all())
    apart_n = float(np.max(np.abs(ours.n_eff - theirs.n_eff)))
    return Check(
        name="baseline",
        right=same and apart == 0.0 and apart_n == 0.0,
        found=f"{len(keys)} prompts: max |Δv̂| {apart:.1e}, max |ΔN_eff| {apart_n:.1e}, visits and versions "
        f"{'equal' if same else 'differ'}",
    )


def store_of_the_prompts(config: RunConfig) -> BaselineStore:
    """A store that knows the prompts of a run, and no outcome of them."""
    (directory,) = (path for path in Path(config.data.store_dir).iterdir() if (path / "manifest.json").exists())
    prompts = PromptStore.open(directory)
    rows, _ = prompts.split_heldout(fraction=config.data.heldout_fraction, size=config.data.heldout_size)
    store = BaselineStore(config.baseline)
    store.register(prompts.keys().take(rows).to_pylist(), prompts.source_names(rows), prompts.features(rows))
    return store


def replay(outcomes: dict[int, Any], *, into: BaselineStore, config: RunConfig) -> None:
    """Take the noted outcomes, made of single completions without the code of the run."""
    skip = bool(config.baseline.skip_truncated)
    low, high = config.baseline.scaled_from
    for _, record in sorted(outcomes.items()):
        sums: Counter[tuple[str, int]] = Counter()
        counts: Counter[tuple[str, int]] = Counter()
        for key, version, reward, truncated, _ in record["scored"]:
            if not (truncated and skip):
                sums[key, version] += min(1.0, max(0.0, (reward - low) / (high - low)))
                counts[key, version] += 1
        if not record["skipped"]:
            into.update_many(
                [key for key, _ in counts],
                [sums[entry] for entry in counts],
                list(counts.values()),
                versions=[version for _, version in counts],
                drift=record["drift"],
                update_id=f"step-{record['step']}",
            )


def _compared(directory: Path, reference: Path, *, exact: bool) -> list[Check]:
    """With the training without kills."""
    theirs, ours = (final_score(path / "run") for path in (reference, directory))
    # Of 64 answers; half of them may differ by chance where nothing is wrong, and a reset policy loses all it learned.
    checks = [
        Check(name="accuracy", right=ours >= theirs - 0.15, found=f"{ours:.3f}, without kills {theirs:.3f}"),
    ]
    if exact:
        checks += [_check_draws(directory, reference), _check_weights(directory, reference)]
    return checks


def final_score(run: Path) -> float:
    return [float(record["eval/pass@1"]) for record in read_metrics(run / "metrics.jsonl") if "eval/pass@1" in record][
        -1
    ]


def _check_draws(directory: Path, reference: Path) -> Check:
    """Every step trained the same requests for the same prompts, and they earned the same."""
    ours, theirs = (
        {record["step"]: record for record in read_lines(path / "outcomes.jsonl")} for path in (directory, reference)
    )
    different = [
        step
        for step, record in theirs.items()
        if step not in ours
        or ours[step]["trained"] != record["trained"]
        or [item[:4] for item in ours[step]["scored"]] != [item[:4] for item in record["scored"]]
    ]
    return Check(name="draws", right=not different, found=f"steps with other completions: {different or 'none'}")


def _check_weights(directory: Path, reference: Path) -> Check:
    """The same model; gradients of another number of ranks are added up in another order."""
    ranks = [load_config(path / "run" / "config.yaml").cluster.num_learners for path in (directory, reference)]
    allowed = 1e-5 if ranks[0] == ranks[1] else 1e-3
    ours, theirs = (load_file(path / "run" / "final" / "model.safetensors") for path in (directory, reference))
    apart = max(float(np.max(np.abs(ours[name] - theirs[name]))) for name in theirs)
    return Check(name="weights", right=set(ours) == set(theirs) and apart <= allowed, found=f"max |Δw| {apart:.1e}")
