"""Draw the README's picture: held-out accuracy and the rewards of one or more runs, from their metrics.

python scripts/plot_learning_curve.py docs/quickstart.png RUN [RUN …]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from bolt_ray.config.loading import load_config
from bolt_ray.training.telemetry.record import read_metrics

SMOOTHING = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    arguments = parser.parse_args()
    matplotlib.use("Agg")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), constrained_layout=True)
    for number, run in enumerate(arguments.runs):
        records = read_metrics(run / "metrics.jsonl")
        evaluations = [record for record in records if "eval/pass@1" in record]
        steps = [record for record in records if "reward/mean" in record]
        label = f"seed {load_config(run / 'config.yaml').seed}"
        low = [100 * (r["eval/pass@1"] - r["eval/pass@1_low"]) for r in evaluations]
        high = [100 * (r["eval/pass@1_high"] - r["eval/pass@1"]) for r in evaluations]
        accuracy = [100 * r["eval/pass@1"] for r in evaluations]
        left.errorbar([r["step"] for r in evaluations], accuracy, yerr=[low, high], marker="o", capsize=3, label=label)
        rewards = [r["reward/mean"] for r in steps]
        smooth = [sum(rewards[max(0, i + 1 - SMOOTHING) : i + 1]) / min(SMOOTHING, i + 1) for i in range(len(rewards))]
        right.plot([r["step"] for r in steps], smooth, label=f"mean reward of a step, {label}")
        if number == 0:
            right.plot(
                [r["step"] for r in steps],
                [r["baseline/avg_v_hat"] for r in steps],
                "--",
                label=f"mean v̂ of the store, {label}",
            )
    left.set(xlabel="optimizer step", ylabel="held-out accuracy, % (95 % interval)", title="Held-out problems")
    right.set(xlabel="optimizer step", title="Training: reward and baseline")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
