"""How many completions, tokens and seconds a method needs to learn as much as GRPO: runs, tables and curves.

Every method learns from the same model with as many completions a step, at the best of three learning rates, which is
chosen on a seed of its own. Held-out problems are answered once each at temperature 1, every 25 steps. The whole table
takes hours: what is done is kept, and the same command goes on where it was interrupted, within a run too.

    python jobs/benchmarks/learning.py --out runs/learning
    python jobs/benchmarks/learning.py --out runs/learning --only arithmetic-4000/256 --methods bolt,grpo --seeds 3
    python jobs/benchmarks/learning.py --out runs/learning --report docs/learning
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from learning_report import write_report

from bolt_ray.commands.pretrain.rows import teach_from_datasets
from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import build_config
from bolt_ray.training.interrupts import Interrupted
from bolt_ray.training.run_directory import RunDirectory, list_checkpoints
from bolt_ray.training.telemetry.record import read_metrics

EVERY = 25
RATES = (1e-4, 3e-4, 1e-3)
TUNING_SEED = 100
COLUMNS = ("step", "completions", "tokens", "seconds", "score")

ARITHMETIC: dict[str, Any] = {
    "model": {"name_or_path": "arithmetic", "dtype": "float32"},
    "datasets": [{"name": "arithmetic"}],
    "rewards": [{"type": "arithmetic"}],
    "sampling": {"temperature": 1.0, "max_new_tokens": 48},
}
CHAIN_SUM: dict[str, Any] = {
    "pretrain": {"steps": 1500, "until_accuracy": 0.3},
    "datasets": [
        {
            "name": "reasoning_gym/chain_sum",
            "size": 7_000,
            "options": {"min_terms": 2, "max_terms": 4, "min_digits": 1, "max_digits": 1},
            "columns": {"prompt": "metadata.expression"},
        }
    ],
    "data": {"heldout_size": 1024},
    "rewards": [{"type": "reasoning_gym", "strict": True}],
    "sampling": {"temperature": 1.0, "max_new_tokens": 8},
}
"""Sums of two to four digits, by the library reasoning-gym; each row is a prompt of its own."""
TASKS: dict[str, dict[str, Any]] = {
    "arithmetic-4000": ARITHMETIC | {"arithmetic": {"num_train": 4_000}},
    "arithmetic-20000": ARITHMETIC | {"arithmetic": {"num_train": 20_000}},
    "chain_sum": CHAIN_SUM,
}
METHODS: dict[str, dict[str, Any]] = {
    name: {"algo": name} for name in ("bolt", "grpo", "reinforce", "spo", "baseline", "curriculum", "dapo")
}
STEPS = {256: 200, 64: 500}
MAIN = ("bolt", "grpo", "reinforce")
PLAN: tuple[tuple[str, int, tuple[str, ...], int], ...] = (
    ("arithmetic-4000", 256, MAIN, 5),
    ("arithmetic-20000", 256, MAIN, 5),
    ("arithmetic-4000", 64, MAIN, 5),
    ("chain_sum", 256, MAIN, 5),
    ("arithmetic-4000", 256, ("spo", "baseline", "curriculum", "dapo"), 3),
)
"""Task, completions a step, methods, seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One training."""

    task: str
    batch: int
    method: str
    rate: float
    seed: int

    def directory(self, out: Path) -> Path:
        return out / f"{self.task}/{self.batch}/{self.method}/rate-{self.rate:g}/seed-{self.seed}"

    def config(self, directory: Path, *, model: Path | None) -> Any:
        """``model``: the one to begin with; None: the task's own."""
        resume = bool(list_checkpoints(RunDirectory(directory)))
        tree: dict[str, Any] = {
            "name": self.method,
            "seed": self.seed,
            "run_dir": None if resume else str(directory),
            "resume": str(directory) if resume else None,
            "rollout": {"rollouts_per_step": self.batch},
            "train": {
                "max_steps": STEPS[self.batch],
                "learning_rate": self.rate,
                "betas": [0.9, 0.95],
                "warmup_steps": 5,
            },
            "scoring": {"num_scorers": 1, "cpus_per_scorer": 0.25},
            "eval": {"every_steps": EVERY, "num_problems": 1024, "temperature": 1.0, "seed": 1234 + self.seed},
            "checkpoint": {"every_steps": EVERY, "keep": 1},
        }
        tree |= TASKS[self.task] | METHODS[self.method]
        return build_config(tree if model is None else tree | {"model": taught(model)})


def taught(model: Path) -> dict[str, Any]:
    return {"name_or_path": str(model), "dtype": "float32"}


def first_model(task: str, out: Path) -> Path | None:
    """The model that the trainings of a task begin with, taught once and kept; None for one that is embedded."""
    if "pretrain" not in TASKS[task]:
        return None
    model = out / "models" / task
    if not model.exists():
        teach_from_datasets(build_config(TASKS[task] | {"model": taught(model)}), model, say=print, show_progress=False)
    return model


def curve_of(trial: Trial, out: Path) -> list[dict[str, float]]:
    """The trial's evaluations; it is trained now if it was not yet."""
    directory = trial.directory(out)
    done = directory / "curve.csv"
    if not done.exists():
        print(f"--- {trial}", flush=True)
        if directory.exists() and not list_checkpoints(RunDirectory(directory)):
            shutil.rmtree(directory)
        if train(trial.config(directory, model=first_model(trial.task, out))).interrupted:
            raise Interrupted(f"{trial} is saved; the same command goes on")
        rows = evaluations(read_metrics(directory / "metrics.jsonl"), before=warm_start_cost(directory))
        wanted = [float(step) for step in range(0, STEPS[trial.batch] + 1, EVERY)]
        assert [row["step"] for row in rows] == wanted, f"{directory}: evaluations are missing"
        temporary = directory / "curve.tmp"
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        temporary.rename(done)
        for name in ("checkpoints", "final", "ray_train", "baseline", "draws"):
            shutil.rmtree(directory / name, ignore_errors=True)
    with done.open(encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def evaluations(records: Sequence[dict[str, Any]], *, before: int) -> list[dict[str, float]]:
    """Scores, and what had been spent on them: completions and tokens generated for training, seconds of its steps.

    Args:
        before: completions of a warm start; they count as many tokens, and seconds, as those of the first step.
    """
    spent = {"completions": 0.0, "tokens": 0.0, "seconds": 0.0}
    steps = [record for record in records if "reward/mean" in record]
    made = steps[0]["rollout/completions"] + steps[0]["rollout/refilled"] if steps else 1.0
    for name, value in (_spent_in(steps[0]) if before else {}).items():
        spent[name] += value * before / made
    rows = {}
    for record in records:
        if "reward/mean" in record:
            for name, value in _spent_in(record).items():
                spent[name] += value
        if "eval/pass@1" in record:  # of one that was made again after an interrupt, the last
            rows[record["step"]] = {"step": float(record["step"]), **spent, "score": record["eval/pass@1"]}
    return list(rows.values())


def _spent_in(step: dict[str, Any]) -> dict[str, float]:
    return {
        "completions": step["rollout/completions"] + step["rollout/refilled"] + step["rollout/stale_dropped"],
        "tokens": step["throughput/tokens_per_second"] * step["time/step"],
        "seconds": step["time/step"],
    }


def warm_start_cost(directory: Path) -> int:
    """Completions of a warm start that the run made itself."""
    file = directory / "warm_start.json"
    if not file.exists():
        return 0
    about = json.loads(file.read_text(encoding="utf-8"))["metadata"]
    return int(about["n_prompts"]) * int(about["num_samples"])


def final_score(rows: Sequence[dict[str, float]]) -> float:
    """Mean of the last three evaluations."""
    last = [row["score"] for row in rows[-3:]]
    return sum(last) / len(last)


def best_rate(task: str, batch: int, method: str, out: Path) -> float:
    trials = [Trial(task=task, batch=batch, method=method, rate=rate, seed=TUNING_SEED) for rate in RATES]
    return max(trials, key=lambda trial: final_score(curve_of(trial, out))).rate


def trials_of(plan: Sequence[tuple[str, int, tuple[str, ...], int]], out: Path) -> Iterator[Trial]:
    """Seed by seed, so that an interrupted table is whole up to some seed."""
    for task, batch, methods, seeds in plan:
        rates = {method: best_rate(task, batch, method, out) for method in methods}
        for seed in range(seeds):
            for method in methods:
                yield Trial(task=task, batch=batch, method=method, rate=rates[method], seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--only", help="one task and batch, as arithmetic-4000/256")
    parser.add_argument("--methods", help="of these only, by commas")
    parser.add_argument("--seeds", type=int, help="at most so many")
    parser.add_argument("--report", type=Path, help="write PATH.md and PATH.png of what is done, and train nothing")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    if arguments.report is not None:
        write_report(out, arguments.report)
        return
    wanted = None if arguments.methods is None else arguments.methods.split(",")
    plan = [
        (task, batch, tuple(m for m in methods if wanted is None or m in wanted), min(seeds, arguments.seeds or seeds))
        for task, batch, methods, seeds in PLAN
        if arguments.only in (None, f"{task}/{batch}")
    ]
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        for trial in trials_of([entry for entry in plan if entry[2]], out):
            curve_of(trial, out)
    except Interrupted as signal:
        print(signal)
        sys.exit(130)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
