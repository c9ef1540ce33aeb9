"""A run's held-out score over its steps, as a table and a picture.

python jobs/benchmarks/evaluation_curve.py runs/my-run --picture curve.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.record import read_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("--picture", type=Path, help="PNG to write")
    arguments = parser.parse_args()
    records = [record for record in read_metrics(RunDirectory(arguments.run).metrics_jsonl) if "eval/pass@1" in record]
    steps = [int(record["step"]) for record in records]
    scores, lows, highs = (
        [100 * record[name] for record in records] for name in ("eval/pass@1", "eval/pass@1_low", "eval/pass@1_high")
    )
    print("| step | right | 95 % interval |\n|---|---|---|")
    for step, score, low, high in zip(steps, scores, lows, highs, strict=True):
        print(f"| {step} | {score:.1f} % | {low:.1f} – {high:.1f} |")
    if arguments.picture is not None:
        figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
        axes.plot(steps, scores)
        axes.fill_between(steps, lows, highs, alpha=0.2)
        axes.set(xlabel="step", ylabel="held-out problems right, %")
        axes.grid(alpha=0.3)
        figure.savefig(arguments.picture, dpi=100)


if __name__ == "__main__":
    main()
