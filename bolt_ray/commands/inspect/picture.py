"""The picture of ``bolt-ray inspect``: v̂ as histograms, and over the steps of the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.baseline.metrics import HISTOGRAM_BINS

Record = Mapping[str, Any]


def draw_baseline(
    file: BinaryIO, *, title: str, histograms: Mapping[int, NDArray[np.int64]], records: Sequence[Record]
) -> None:
    """Write a PNG with six panels.

    Args:
        histograms: step of a checkpoint to int64 [bins], prompts by v̂ over [0, 1]; at least one, oldest first.
        records: of ``metrics.jsonl``; a panel leaves out the records that lack its columns.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 12), layout="constrained")
    figure.suptitle(title)
    (newest, over_time), (values, shares), (calibrated, worth) = figure.subplots(3, 2)
    _newest(newest, histograms)
    _over_time(over_time, records, histograms)
    _values(values, records)
    _shares(shares, records)
    _calibration(calibrated, records)
    _worth(worth, records)
    figure.savefig(file, format="png", dpi=110)


def _newest(axes: Any, histograms: Mapping[int, NDArray[np.int64]]) -> None:
    step, counts = list(histograms.items())[-1]
    edges = np.linspace(0.0, 1.0, counts.size + 1)
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", edgecolor="white")
    axes.set(title=f"v̂ after {step:,} steps", xlabel="v̂", ylabel="prompts", xlim=(0, 1))


def _over_time(axes: Any, records: Sequence[Record], histograms: Mapping[int, NDArray[np.int64]]) -> None:
    """A column per step, from the metrics; without them the histograms of the checkpoints kept."""
    steps, *bins = columns(records, ("step", *(f"baseline/hist_{i}" for i in range(HISTOGRAM_BINS))))
    if steps.size == 0:
        steps = np.array(list(histograms), dtype=np.float64)
        bins = list(np.array([counts / max(int(counts.sum()), 1) for counts in histograms.values()]).T)
    edges = np.linspace(0.0, 1.0, len(bins) + 1)
    mesh = axes.pcolormesh(np.append(steps, steps[-1] + 1), edges, 100.0 * np.array(bins), cmap="Blues", vmin=0)
    axes.figure.colorbar(mesh, ax=axes, label="% of the prompts")
    axes.set(title="v̂ over the run", xlabel="step", ylabel="v̂", ylim=(0, 1))


def _values(axes: Any, records: Sequence[Record]) -> None:
    steps, low, mean, high = columns(
        records, ("step", "baseline/min_v_hat", "baseline/avg_v_hat", "baseline/max_v_hat")
    )
    axes.fill_between(steps, low, high, alpha=0.15, label="lowest to highest")
    axes.plot(steps, mean, label="mean v̂")
    steps, reward = columns(records, ("step", "reward/mean"))
    axes.plot(steps, reward, lw=0.8, label="mean reward of the step")
    axes.set(title="v̂ and reward", xlabel="step")
    axes.legend(fontsize="small")


def _shares(axes: Any, records: Sequence[Record]) -> None:
    for name, label in (
        ("curriculum/pct_easy", "easy, v̂ > .8"),
        ("curriculum/pct_hard", "hard, v̂ < .2"),
        ("curriculum/pct_learning_edge", ".3 ≤ v̂ ≤ .7"),
    ):
        steps, share = columns(records, ("step", name))
        axes.plot(steps, share, label=label)
    steps, cold = columns(records, ("step", "baseline/cold_fraction"))
    axes.plot(steps, 100.0 * (1.0 - cold), "k--", label="have evidence, of all prompts")
    axes.set(title="share of the prompts", xlabel="step", ylabel="%", ylim=(-2, 102))
    axes.legend(fontsize="small")


def _calibration(axes: Any, records: Sequence[Record]) -> None:
    """Mean reward against mean v̂ by tenths of v̂, in both halves of the run; on the diagonal v̂ is right."""
    axes.plot([0, 1], [0, 1], "k--", lw=0.8)
    half = len(records) // 2
    for label, part in (("first half", records[:half]), ("second half", records[half:])):
        points = calibration(part)
        if points.size:
            v_hat, reward, counts = points
            axes.plot(v_hat, reward, lw=0.8)
            axes.scatter(v_hat, reward, s=10 + 120 * counts / counts.max(), label=label)
    axes.set(title="calibration", xlabel="v̂ before the outcome", ylabel="mean reward", xlim=(0, 1), ylim=(0, 1))
    if axes.collections:
        axes.legend(fontsize="small")


def _worth(axes: Any, records: Sequence[Record]) -> None:
    for name, label in (
        ("baseline/variance_reduction", "all prompts"),
        ("baseline/variance_reduction_seen", "prompts trained on before"),
    ):
        steps, share = columns(records, ("step", name))
        if steps.size:
            (line,) = axes.plot(steps, _smooth(share), label=label)
            axes.plot(steps, share, lw=0.5, alpha=0.4, color=line.get_color())
    axes.axhline(0.0, color="k", lw=0.8)
    axes.set(title="share of the reward's variance that v̂ removes", xlabel="step", ylim=(-0.5, 1))
    if len(axes.lines) > 1:  # besides the zero
        axes.legend(fontsize="small")


def _smooth(values: NDArray[np.float64], width: int = 9) -> NDArray[np.float64]:
    """The mean of up to ``width`` values around each."""
    ones = np.ones(min(width, values.size))
    return np.convolve(values, ones, "same") / np.convolve(np.ones(values.size), ones, "same")


def calibration(records: Sequence[Record]) -> NDArray[np.float64]:
    """float64 [3, t]: mean v̂, mean reward and completions of the tenths of v̂ that had any, over all of r records."""
    found = []
    for i in range(HISTOGRAM_BINS):
        counts, v_hat, reward = columns(
            records, tuple(f"baseline/decile_{name}_{i}" for name in ("count", "v_hat", "reward"))
        )
        if counts.size:
            total = counts.sum()
            found.append(((counts * v_hat).sum() / total, (counts * reward).sum() / total, total))
    return np.array(found, dtype=np.float64).reshape(-1, 3).T


def columns(records: Sequence[Record], names: Sequence[str]) -> NDArray[np.float64]:
    """float64 [len(names), r]: the columns of the r records that have all of them, as finite numbers."""
    rows = [[record[name] for name in names] for record in records if all(name in record for name in names)]
    table = np.array(rows, dtype=np.float64).reshape(-1, len(names))
    return table[np.isfinite(table).all(axis=1)].T
