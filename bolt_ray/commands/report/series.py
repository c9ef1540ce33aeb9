"""Metrics as series of points that a picture can show, however long the run was. Arrays in, arrays out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.baseline.metrics import HISTOGRAM_BINS

Record = Mapping[str, Any]
Floats = NDArray[np.float64]

BUCKETS = 600
"""Points of a series; a chart is about as many pixels wide. Up to twice as many steps are shown one by one."""

BIAS_SPANS = 40
"""Spans of steps of the calibration over the run."""

_BINNED = re.compile(r"(baseline/(hist|decile_\w+)|curriculum/(asked|drawn))_\d+")
_AXES = ("step", "hours", "completions", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A metric over the run; p points, NaN where it is unknown.

    Attributes:
        mean: float64 [p], over the steps of each point.
        low, high: float64 [p], lowest and highest of these; None where each point is one step.
    """

    mean: Floats
    low: Floats | None = None
    high: Floats | None = None


def columns(records: Sequence[Record]) -> dict[str, Floats]:
    """Every number of r records as float64 [r], by name; NaN where a record lacks it or it is not finite."""
    found: dict[str, Floats] = {}
    for row, record in enumerate(records):
        for name, value in record.items():
            if isinstance(value, (int, float)):
                if name not in found:
                    found[name] = np.full(len(records), np.nan)
                found[name][row] = value
    for column in found.values():
        column[~np.isfinite(column)] = np.nan
    return found


def starts(num_steps: int, *, buckets: int = BUCKETS) -> NDArray[np.int64]:
    """int64 [p]: the first step of each point, points of equally many steps; p is ``num_steps`` up to 2·buckets."""
    if num_steps <= 2 * buckets:
        return np.arange(num_steps)
    return np.arange(buckets) * num_steps // buckets


def thinned(column: Floats, first: NDArray[np.int64]) -> Series:
    """A column as one point from each of ``first`` to the next.

    Args:
        column: float64 [n].
        first: int64 [p], as ``starts`` gives it.
    """
    if first.size == column.size:
        return Series(mean=column)
    known = np.isfinite(column)
    counts = np.add.reduceat(known.astype(np.float64), first)
    sums = np.add.reduceat(np.where(known, column, 0.0), first)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums / counts
    return Series(mean=mean, low=np.fmin.reduceat(column, first), high=np.fmax.reduceat(column, first))


def axes(table: Mapping[str, Floats]) -> dict[str, Floats]:
    """What a step can be drawn over, each float64 [n]: step, hours, completions and tokens since the start.

    Totals of a run that has none are added up from its steps.
    """
    n = table["step"].size if "step" in table else 0
    count = _summed(table.get("rollout/completions"), n)
    tokens = _summed(_product(table.get("rollout/completions"), table.get("completions/mean_length")), n)
    return {
        "step": table.get("step", np.zeros(0)),
        "hours": _filled(table.get("time/wall"), _summed(table.get("time/step"), n)) / 3600.0,
        "completions": _filled(table.get("total/completions"), count),
        "tokens": _filled(table.get("total/tokens"), tokens),
    }


def axes_at(steps: Floats, of_steps: Mapping[str, Floats]) -> dict[str, Floats]:
    """The same for evaluations after ``steps``, float64 [e]; before the first step everything is 0."""
    known = np.append(0.0, of_steps["step"])
    found = {name: np.interp(steps, known, np.append(0.0, of_steps[name])) for name in _AXES}
    return {**found, "step": steps}


def bins(table: Mapping[str, Floats], prefix: str, first: NDArray[np.int64]) -> Floats | None:
    """float64 [10, p]: a metric of tenths of v̂ over the run, ``prefix_0`` first; None if there is none of it."""
    found = [table.get(f"{prefix}_{i}") for i in range(HISTOGRAM_BINS)]
    if all(column is None for column in found):
        return None
    empty = np.full(table["step"].size, np.nan)
    return np.stack([thinned(empty if column is None else column, first).mean for column in found])


def bias(table: Mapping[str, Floats], first: NDArray[np.int64]) -> Floats | None:
    """float64 [10, p]: mean reward minus mean v̂ of the completions of each tenth of v̂; None if there are none.

    One step has too few completions of a tenth to say that, so up to ``BIAS_SPANS`` spans of steps share a value.
    """
    points = first.size
    span = np.arange(min(BIAS_SPANS, points)) * points // min(BIAS_SPANS, points)
    rows = []
    for i in range(HISTOGRAM_BINS):
        count, v_hat, reward = (table.get(f"baseline/decile_{name}_{i}") for name in ("count", "v_hat", "reward"))
        if count is None or v_hat is None or reward is None:
            rows.append(np.full(points, np.nan))
            continue
        excess = np.add.reduceat(np.nan_to_num(count * (reward - v_hat)), first[span])
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = excess / np.add.reduceat(np.nan_to_num(count), first[span])
        rows.append(np.repeat(mean, np.diff(np.append(span, points))))
    found = np.stack(rows)
    return found if np.isfinite(found).any() else None


def calibration(table: Mapping[str, Floats], parts: int = 3) -> list[Floats]:
    """For each part of the run float64 [3, t]: mean v̂, mean reward and completions of the tenths of v̂ that had any."""
    curves = []
    for rows in np.array_split(np.arange(table["step"].size if "step" in table else 0), parts):
        points = []
        for i in range(HISTOGRAM_BINS):
            of_tenth = [table.get(f"baseline/decile_{name}_{i}") for name in ("count", "v_hat", "reward")]
            if any(column is None for column in of_tenth):
                continue
            count, v_hat, reward = (np.nan_to_num(column[rows]) for column in of_tenth if column is not None)
            total = count.sum()
            if total > 0:
                points.append(((count * v_hat).sum() / total, (count * reward).sum() / total, total))
        curves.append(np.array(points, dtype=np.float64).reshape(-1, 3).T)
    return curves


def is_binned(name: str) -> bool:
    """True for a metric of one tenth of v̂, which is shown with the others of its kind."""
    return _BINNED.fullmatch(name) is not None


def _product(left: Floats | None, right: Floats | None) -> Floats | None:
    return None if left is None or right is None else left * right


def _summed(column: Floats | None, n: int) -> Floats:
    return np.zeros(n) if column is None else np.cumsum(np.nan_to_num(column))


def _filled(column: Floats | None, otherwise: Floats) -> Floats:
    """``column`` with its gaps interpolated; ``otherwise`` where there is none."""
    if column is None or not np.isfinite(column).any():
        return otherwise
    known = np.isfinite(column)
    rows = np.arange(column.size)
    filled: Floats = np.interp(rows, rows[known], column[known])
    return filled
