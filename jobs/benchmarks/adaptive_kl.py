"""What each adaptive KL method does to a reward that can be exploited by length, as a table and a plot.

The embedded model is paid for right answers and, as much again, for long completions. Without a KL term, and under a
plain one at this coefficient, completions grow; every method is run at the same coefficient (a controller starts
there), from the same model and seed.

    python jobs/benchmarks/adaptive_kl.py --steps 60 --picture docs/adaptive_kl.png
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import ray

from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import build_config
from bolt_ray.training.telemetry.record import read_metrics

METHODS: dict[str, dict[str, Any]] = {
    "no KL": {"coef": 0.0},
    "plain k3": {},
    "clip": {"adaptation": "clip"},
    "sigmoid": {"adaptation": "sigmoid"},
    "hinge": {"adaptation": "hinge"},
    "softplus": {"adaptation": "softplus"},
    "length_normalized": {"adaptation": "length_normalized"},
    "dynamic controller": {"controller": "dynamic"},
    "ziegler controller": {"controller": "ziegler", "horizon": 300.0},
    "ppo_penalty controller": {"controller": "ppo_penalty"},
}
BARE = ("no KL", "plain k3")
LAST = 10


def run(kl: dict[str, Any], *, coef: float, steps: int, directory: Path) -> list[dict[str, Any]]:
    config = build_config(
        {
            "run_dir": str(directory),
            "model": {"name_or_path": "arithmetic", "dtype": "float32"},
            "datasets": [{"name": "arithmetic"}],
            "rewards": [
                {"type": "arithmetic"},
                {"type": "length", "target_tokens": 48, "tolerance_tokens": 48, "shaping": False},
            ],
            "baseline": {"reward_range": [0.0, 2.0]},
            "sampling": {"max_new_tokens": 48},
            "kl": {"coef": coef} | kl,
            "train": {"max_steps": steps, "learning_rate": 5e-4, "betas": [0.9, 0.95]},
            "scoring": {"num_scorers": 1, "cpus_per_scorer": 0.25},
            "eval": {"every_steps": 0, "at_start": False, "num_problems": 256},
            "checkpoint": {"every_steps": 0, "keep": 1},
        }
    )
    train(config)
    return read_metrics(directory / "metrics.jsonl")


def mean_of(records: list[dict[str, Any]], name: str) -> float:
    values = [record[name] for record in records if name in record][-LAST:]
    return sum(values) / len(values) if values else float("nan")


def draw(picture: Path, runs: dict[str, list[dict[str, Any]]]) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, column, title in zip(
        figure.subplots(1, 2),
        ("completions/mean_length", "adaptive_kl/raw_kl"),
        ("completion length, tokens", "KL to the reference, nats per token (K before the shape)"),
        strict=True,
    ):
        for name, records in runs.items():
            steps = [record for record in records if column in record]
            style = {"color": "black", "linestyle": {"no KL": ":"}.get(name, "-")} if name in BARE else {}
            axes.plot([record["step"] for record in steps], [record[column] for record in steps], label=name, **style)
        axes.set(xlabel="optimizer step", title=title)
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--coef", type=float, default=0.05)
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    runs: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        for name, kl in METHODS.items():
            target = Path(directory) / name.replace(" ", "_")
            runs[name] = run(kl, coef=arguments.coef, steps=arguments.steps, directory=target)
    ray.shutdown()
    print(f"{platform.platform()}, {os.cpu_count()} cores; {arguments.steps} steps, coefficient {arguments.coef:g}")
    print("| method | length | right | reward | raw KL | adapted KL | β |\n|---|---|---|---|---|---|---|")
    for name, records in runs.items():
        cells = (
            f"{mean_of(records, 'completions/mean_length'):.1f}",
            f"{100 * mean_of(records, 'reward/part/arithmetic'):.0f} %",
            f"{mean_of(records, 'reward/mean'):.2f}",
            f"{mean_of(records, 'adaptive_kl/raw_kl'):.3f}",
            f"{mean_of(records, 'adaptive_kl/adapted_kl'):.3f}",
            f"{mean_of(records, 'adaptive_kl/current_beta'):.3f}",
        )
        print(f"| {name} | {' | '.join(cells)} |")
    if arguments.picture is not None:
        draw(arguments.picture, runs)


if __name__ == "__main__":
    main()
