"""The table and the curves of ``learning.py``, from the ``curve.csv`` of every run that is done."""

from __future__ import annotations

import csv
import platform
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
TUNING = "seed-100"
COSTS = ("completions", "tokens", "seconds")
LAST = 3
"""Evaluations whose mean is the final score; also how many a curve is smoothed over."""


@dataclass(frozen=True, slots=True)
class Curves:
    """Runs of one method: ``score`` and each of ``COSTS`` are float64 [seeds, evaluations]."""

    rate: float
    columns: Mapping[str, NDArray[np.float64]]

    @property
    def seeds(self) -> int:
        return int(self.columns["score"].shape[0])

    def finals(self) -> NDArray[np.float64]:
        """float64 [seeds]."""
        last: NDArray[np.float64] = self.columns["score"][:, -LAST:].mean(axis=1)
        return last


def cost_to_reach(curves: Curves, target: float, cost: str, seeds: NDArray[np.int64]) -> float:
    """What the mean run of ``seeds`` has spent when its score first reaches ``target``; infinite if it never does."""
    mean = curves.columns["score"][seeds].mean(axis=0)
    spent = curves.columns[cost][seeds].mean(axis=0)
    window = np.ones(LAST) / LAST
    smooth = np.convolve(np.concatenate([[mean[0]], mean, [mean[-1]]]), window, mode="valid")
    best = np.maximum.accumulate(smooth)
    if best[-1] < target:
        return float("inf")
    place = int(np.argmax(best >= target))
    if place == 0:
        return float(spent[0])
    share = (target - best[place - 1]) / (best[place] - best[place - 1])
    return float(spent[place - 1] + share * (spent[place] - spent[place - 1]))


def ratio(method: Curves, grpo: Curves, cost: str) -> tuple[float, float, float]:
    """What the method spends until it reaches GRPO's final score, over what GRPO spends until it does; and the 90 %
    interval. Both by the same rule, so that GRPO itself is 1; seeds of both are resampled with their curves.
    """
    rng = np.random.default_rng(0)

    def once(mine: NDArray[np.int64], theirs: NDArray[np.int64]) -> float:
        target = float(grpo.finals()[theirs].mean())
        return cost_to_reach(method, target, cost, mine) / cost_to_reach(grpo, target, cost, theirs)

    whole = once(np.arange(method.seeds), np.arange(grpo.seeds))
    drawn = []
    for _ in range(RESAMPLES):
        theirs = rng.integers(grpo.seeds, size=grpo.seeds)
        drawn.append(once(theirs if method is grpo else rng.integers(method.seeds, size=method.seeds), theirs))
    low, high = np.quantile(drawn, [0.05, 0.95], method="nearest")
    return whole, float(low), float(high)


def read_curves(out: Path) -> dict[str, dict[str, Curves]]:
    """By task and batch, by method: the runs at the learning rate that has seeds of its own."""
    found: dict[str, dict[str, Curves]] = defaultdict(dict)
    for rate in sorted(out.glob("*/*/*/rate-*")):
        runs = [path for path in sorted(rate.glob("seed-*/curve.csv")) if path.parent.name != TUNING]
        if not runs:
            continue
        tables = [list(csv.DictReader(path.open(encoding="utf-8"))) for path in runs]
        columns = {
            name: np.array([[float(row[name]) for row in table] for table in tables]) for name in ("score", *COSTS)
        }
        method = rate.parent.name
        place = f"{rate.parent.parent.parent.name}/{rate.parent.parent.name}"
        found[place][method] = Curves(float(rate.name.removeprefix("rate-")), columns)
    return found


def write_report(out: Path, target: Path) -> None:
    """``target``.md and ``target``.png."""
    found = read_curves(out)
    lines = []
    for place, tried in sorted(read_tuning(out).items()):
        task, batch = place.split("/")
        lines += [f"### {task}, {batch} completions a step", ""]
        if place in found:
            lines += [*table(found[place]), ""]
        lines += ["Final score by learning rate, on the seed that chooses it:", "", *tuning_table(tried), ""]
    target.with_suffix(".md").write_text("\n".join([f"{platform.platform()}", "", *lines]), encoding="utf-8")
    draw(target.with_suffix(".png"), found)
    print("\n".join(lines))


def read_tuning(out: Path) -> dict[str, dict[str, dict[float, float]]]:
    """By task and batch, by method: the final score at each learning rate, of the seed that chooses one."""
    found: dict[str, dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(out.glob(f"*/*/*/rate-*/{TUNING}/curve.csv")):
        task, batch, method, rate = path.parts[-6:-2]
        with path.open(encoding="utf-8") as file:
            scores = [float(row["score"]) for row in csv.DictReader(file)]
        found[f"{task}/{batch}"][method][float(rate.removeprefix("rate-"))] = float(np.mean(scores[-LAST:]))
    return found


def tuning_table(tried: Mapping[str, Mapping[float, float]]) -> list[str]:
    rates = sorted({rate for scores in tried.values() for rate in scores})
    lines = [f"| method | {' | '.join(f'{rate:g}' for rate in rates)} |", "|---" * (len(rates) + 1) + "|"]
    for method, scores in tried.items():
        cells = [f"{100 * scores[rate]:.1f} %" if rate in scores else "–" for rate in rates]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return lines


def table(methods: Mapping[str, Curves]) -> list[str]:
    lines = [
        "| method | learning rate | seeds | at first | final score | completions | tokens | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    grpo = methods.get("grpo")
    for name, curves in sorted(methods.items(), key=lambda item: -item[1].finals().mean()):
        finals = 100 * curves.finals()
        spread = f" ± {finals.std(ddof=1) / np.sqrt(finals.size):.1f}" if finals.size > 1 else ""
        costs = [words(*ratio(curves, grpo, cost)) if grpo is not None else "–" for cost in COSTS]
        cells = [name, f"{curves.rate:g}", str(curves.seeds), f"{100 * curves.columns['score'][:, 0].mean():.1f} %"]
        lines.append(f"| {' | '.join([*cells, f'{finals.mean():.1f} %{spread}', *costs])} |")
    return lines


def words(value: float, low: float, high: float) -> str:
    def one(number: float) -> str:
        return f"{number:.2f}" if np.isfinite(number) else "never"

    return f"{one(value)} ({one(low)} – {one(high)})"


def draw(picture: Path, found: Mapping[str, Mapping[str, Curves]]) -> None:
    from matplotlib.figure import Figure

    if not found:
        return
    figure = Figure(figsize=(6 * len(found), 4.2), layout="constrained")
    for axes, (place, methods) in zip(
        np.atleast_1d(figure.subplots(1, len(found))), sorted(found.items()), strict=True
    ):
        for name in sorted(methods):
            scores, spent = 100 * methods[name].columns["score"], methods[name].columns["completions"].mean(axis=0)
            (line,) = axes.plot(spent / 1000, scores.mean(axis=0), label=name)
            axes.fill_between(spent / 1000, scores.min(axis=0), scores.max(axis=0), color=line.get_color(), alpha=0.15)
        axes.set(title=f"{place} completions a step", xlabel="completions, thousands", ylabel="held-out score, %")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=110)


__all__: Sequence[str] = ("write_report",)
