"""The main pictures of the report as one PNG, for a paper or a chat."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from bolt_ray.commands.report.chart import Chart
from bolt_ray.commands.report.charts import SECTIONS
from bolt_ray.commands.report.series import Floats, bins, calibration, starts, thinned

Tables = tuple[Mapping[str, Floats], Mapping[str, Floats]]
"""Columns of a run's steps, and of its evaluations."""

PICTURED = (
    "Held-out evaluation",
    "Reward",
    "Length",
    "Cut at the length limit",
    "Entropy",
    "Gap between generator and learner",
    "Variance of the reward that v̂ explains",
    "Calibration",
    "v̂ of all prompts",
)
"""Titles of the charts drawn; pictures that can show one run only show the first."""


def draw_runs(runs: Mapping[str, Tables]) -> bytes:
    """A PNG with a panel for each of ``PICTURED``; ``runs`` by label."""
    from matplotlib.figure import Figure

    charts = {chart.title: chart for section in SECTIONS for chart in section.charts}
    figure = Figure(figsize=(14, 11), layout="constrained")
    for axes, title in zip(figure.subplots(3, 3).flat, PICTURED, strict=True):
        chart = charts[title]
        axes.set(title=title, xlabel="step", ylabel=chart.unit)
        if chart.kind == "calibration":
            _calibration(axes, next(iter(runs.values()))[0])
        elif chart.kind == "heat":
            _heat(axes, chart, next(iter(runs.values()))[0])
        else:
            _lines(axes, chart, runs)
    if len(runs) == 1:
        figure.suptitle(next(iter(runs)))
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def _lines(axes: Any, chart: Chart, runs: Mapping[str, Tables]) -> None:
    for label, tables in runs.items():
        for line in chart.lines if len(runs) == 1 else chart.lines[:1]:
            table = next((table for table in reversed(tables) if line.name in table), None)
            if table is None:
                continue
            first = starts(table["step"].size)
            x, series = thinned(table["step"], first).mean, thinned(table[line.name], first)
            low, high = (table.get(name) for name in line.band) if line.band else (series.low, series.high)
            (drawn,) = axes.plot(x, chart.factor * series.mean, lw=1, label=line.label if len(runs) == 1 else label)
            if low is not None and high is not None and low.size == x.size:
                axes.fill_between(x, chart.factor * low, chart.factor * high, alpha=0.15, color=drawn.get_color())
    if axes.lines:
        axes.legend(fontsize="small")


def _calibration(axes: Any, table: Mapping[str, Floats]) -> None:
    axes.plot([0, 1], [0, 1], "k--", lw=0.8)
    for curve, label in zip(calibration(table), ("first third", "second third", "last third"), strict=True):
        if curve.shape[1] > 1:
            axes.plot(curve[0], curve[1], marker="o", ms=3, lw=1, label=label)
    axes.set(xlabel="v̂ before the outcome", ylabel="mean reward", xlim=(0, 1), ylim=(0, 1))
    if len(axes.lines) > 1:  # besides the diagonal
        axes.legend(fontsize="small")


def _heat(axes: Any, chart: Chart, table: Mapping[str, Floats]) -> None:
    first = starts(table["step"].size if "step" in table else 0)
    rows = bins(table, chart.lines[0].name, first) if first.size else None
    if rows is not None:
        x = thinned(table["step"], first).mean
        edges = np.linspace(0.0, 1.0, rows.shape[0] + 1)
        axes.pcolormesh(np.append(x, x[-1] + 1), edges, 100.0 * rows, cmap="Blues", vmin=0)
    axes.set(ylabel="v̂", ylim=(0, 1))
