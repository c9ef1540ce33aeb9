"""``bolt-ray report``: reads runs and writes the page. Reads files only; starts nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from bolt_ray.commands.report.chart import with_names
from bolt_ray.commands.report.charts import SECTIONS, derived
from bolt_ray.commands.report.page import page
from bolt_ray.commands.report.picture import draw_runs
from bolt_ray.commands.report.reading import MAX_SAMPLE_BYTES, MAX_SAMPLES, ReadRun, read_run
from bolt_ray.commands.report.samples import number, sample_table
from bolt_ray.commands.report.series import (
    Floats,
    Series,
    axes,
    axes_at,
    bias,
    bins,
    calibration,
    columns,
    is_binned,
    starts,
    thinned,
)
from bolt_ray.commands.report.words import facts, gains, story
from bolt_ray.commands.shared.differences import differences
from bolt_ray.core.errors import CheckpointError
from bolt_ray.training.telemetry.health import judge

HEATS = ("baseline/hist", "curriculum/asked", "curriculum/drawn")


def write_report(paths: Sequence[Path], *, output: Path | None, png: bool, console: Console) -> None:
    """Write the page, and with ``png`` the main pictures beside it.

    Args:
        paths: run directories.
        output: the page; None: ``report.html`` in the run directory, of several in the working directory.

    Raises:
        CheckpointError: no run, none of them has a record yet, or a file that cannot be written.
    """
    runs = [read_run(path) for path in paths]
    for run in runs:
        if not run.steps and not run.evaluations:
            raise CheckpointError(
                f"{run.path}: nothing to report yet, metrics.jsonl has no record; the first is written after the first "
                f"evaluation or optimizer step"
            )
    output = output or (runs[0].path if len(runs) == 1 else Path()) / "report.html"
    _write(output, _page(runs, live=False).encode())
    console.print(f"Report: {output}", markup=False, highlight=False, soft_wrap=True)
    if png:
        tables = {label: _tables(run) for label, run in zip(labels([run.path for run in runs]), runs, strict=True)}
        picture = output.with_suffix(".png")
        _write(picture, draw_runs(tables))
        console.print(f"Pictures: {picture}", markup=False, highlight=False, soft_wrap=True)


def report_html(paths: Sequence[Path], *, live: bool = False) -> str:
    """The page as text, also of runs without a record; with ``live`` it loads itself again from time to time.

    Raises:
        CheckpointError: a path is no run directory.
    """
    return _page([read_run(path) for path in paths], live=live)


def labels(paths: Sequence[Path]) -> list[str]:
    """What tells runs apart: their directories' names, or the parts of their paths that differ; all different."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        common = os.path.commonpath([path.parent for path in paths])
        names = [str(path.relative_to(common)) for path in paths]
    return [f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name for i, name in enumerate(names)]


def _page(runs: Sequence[ReadRun], *, live: bool) -> str:
    names = labels([run.path for run in runs])
    shown = [_run(run, label) for run, label in zip(runs, names, strict=True)]
    known = {name for run in shown for name in (*run["series"], *run["evaluations"]["series"])}
    sections = []
    for section in SECTIONS:
        charts = [chart for chart in (with_names(chart, known) for chart in section.charts) if chart is not None]
        sections.append({"title": section.title, "charts": [asdict(chart) for chart in charts]})
    data = {
        "title": " · ".join(names),
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "live": live,
        "runs": shown,
        "sections": sections,
        "differences": differences([run.config for run in runs]) if len(runs) > 1 else [],
    }
    return page(f"{data['title']} – bolt-ray report", data)


def _tables(run: ReadRun) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """The columns of the steps, with derived ones, and of the evaluations."""
    steps, evaluations = columns(run.steps), columns(run.evaluations)
    return {**steps, **derived(steps)}, evaluations


def _run(run: ReadRun, label: str) -> dict[str, Any]:
    """Everything the page says of one run."""
    steps, evaluations = _tables(run)
    over = axes(steps)
    first = starts(over["step"].size)
    found_bias = bias(steps, first) if first.size else None
    heats = {} if not first.size else {prefix: bins(steps, prefix, first) for prefix in HEATS}
    at_evaluations = axes_at(evaluations.get("step", np.zeros(0)), over)
    notes = list(run.notes)
    if run.num_samples > len(run.samples):
        notes.append(
            f"{len(run.samples):,} of {run.num_samples:,} samples are on this page, of files spread over the run "
            f"(at most {MAX_SAMPLES:,}, or {MAX_SAMPLE_BYTES >> 20} MiB of them)."
        )
    return {
        "label": label,
        "path": str(run.path),
        "story": story(run),
        "facts": facts(run, steps),
        "gains": [asdict(gain) for gain in gains(run)],
        "verdicts": [asdict(verdict) for verdict in judge(run.records)],
        "notes": notes,
        "axes": {name: _numbers(thinned(values, first).mean, 9) for name, values in over.items()},
        "series": _series(steps, first),
        "heats": {
            name: [_numbers(row) for row in rows]
            for name, rows in {**heats, "bias": found_bias}.items()
            if rows is not None
        },
        "calibration": [[_numbers(row) for row in curve] for curve in calibration(steps)],
        "evaluations": {
            "axes": {name: _numbers(values, 9) for name, values in at_evaluations.items()},
            "series": _series(evaluations, np.arange(at_evaluations["step"].size)),
        },
        "settings": yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True) if run.config else "",
        "samples": sample_table(run.samples),
    }


def _series(table: Mapping[str, Floats], first: Any) -> dict[str, list[list[float | int | None]]]:
    """Each column as its points, and where a point is of several steps as their lowest and highest too."""
    names = [name for name in table if name not in ("step", "policy_version") and not is_binned(name)]
    return {name: _points(thinned(table[name], first)) for name in names if np.isfinite(table[name]).any()}


def _points(series: Series) -> list[list[float | int | None]]:
    parts = [part for part in (series.mean, series.low, series.high) if part is not None]
    return [_numbers(part) for part in parts]


def _numbers(values: Floats, digits: int = 5) -> list[float | int | None]:
    return [number(int(value) if value.is_integer() else value, digits) for value in values.tolist()]


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); name another file with --output"
        ) from None
