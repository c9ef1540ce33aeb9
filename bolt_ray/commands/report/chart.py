"""What a picture of the report is made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart.

    Attributes:
        name: of the metric; ``*`` stands for any name, and gives a line for each.
        label: in the legend; of a pattern the name that the ``*`` stands for.
        band: metrics of the lower and upper end of its interval.
        compared: whether it is shown where runs are compared; the first of a chart always is.
    """

    name: str
    label: str
    band: tuple[str, str] | None = None
    compared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One picture.

    Attributes:
        title: what is seen.
        lines: those whose metric a run lacks are left out; a chart without any is left out.
        kind: ``stack`` adds the lines up; ``heat`` draws ``lines[0].name`` of each tenth of v̂ over the run, ``bias``
            the same of a signed number; ``calibration`` reward against v̂. All but ``lines`` are of a single run.
        unit: behind the numbers.
        factor: from the metric to the unit.
        note: how to read it.
        at_least: lines without which it says nothing.
        smooth: whether the lines may be smoothed.
        for_several: whether it is shown only where runs are compared.
    """

    title: str
    lines: Sequence[Line] = ()
    kind: Literal["lines", "stack", "heat", "bias", "calibration"] = "lines"
    unit: str = ""
    factor: float = 1.0
    note: str = ""
    at_least: int = 1
    smooth: bool = True
    for_several: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """Charts under one heading."""

    title: str
    charts: Sequence[Chart]


def lines(*names: tuple[str, str]) -> tuple[Line, ...]:
    """Lines without a band: metric and label of each."""
    return tuple(Line(name=name, label=label) for name, label in names)


def with_names(chart: Chart, names: Iterable[str]) -> Chart | None:
    """The chart with patterns replaced by the names there are, and without the lines that have none; None if that is
    less than it needs. Charts of tenths of v̂ come back as they are."""
    if chart.kind in ("heat", "bias", "calibration"):
        return chart
    known = sorted(set(names))
    found: list[Line] = []
    for line in chart.lines:
        if "*" in line.name:
            before, _, after = line.name.partition("*")
            fitting = [name for name in known if fnmatchcase(name, line.name)]
            found += [
                Line(name=name, label=name[len(before) : len(name) - len(after)], compared=True) for name in fitting
            ]
        elif line.name in known:
            found.append(line)
    if len(found) < chart.at_least:
        return None
    return replace(chart, lines=found)
