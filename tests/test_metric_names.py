"""Every metric the package emits is declared, with unit and meaning, where it is emitted."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import bolt_ray
from bolt_ray.commands.report.charts import SECTIONS
from bolt_ray.core.metric_names import declare_metrics, declared_metrics, is_declared

PACKAGE = Path(bolt_ray.__file__).parent
# A scheduler of its own, whose numbers reach no run, and commands, which read the names.
ELSEWHERE = ("core/bins.py", "commands/")
UNITS = {"completions/s"}
GROUPS = (
    "adaptive_kl|advantage|baseline|completions|curriculum|data|engine|eval|loss|memory|optim|perf|policy|reward|"
    "rollout|throughput|time|total"
)
NAME = re.compile(rf"({GROUPS})/[\w@{{}}./]+")


def names_in(path: Path) -> set[str]:
    """The metric names of a module: texts, and f-texts with ``{}`` for what is filled in."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts_of_texts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        whole = isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts_of_texts
        text = str(node.value) if whole and isinstance(node, ast.Constant) else ""
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
            text = "".join(map(str, parts))
        if NAME.fullmatch(text):
            found.add(text)
    return found - UNITS


def test_what_is_emitted_is_declared() -> None:
    emitted: dict[str, str] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        place = str(path.relative_to(PACKAGE))
        names = set() if place.startswith(ELSEWHERE) else names_in(path)
        emitted |= dict.fromkeys(names, place)
        if names:
            importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    assert len(emitted) > 80
    undeclared = {name: place for name, place in emitted.items() if not is_declared(name)}
    assert undeclared == {}
    assert all(metric.meaning for metric in declared_metrics().values())


def test_the_report_draws_what_is_declared() -> None:
    for path in PACKAGE.rglob("*.py"):
        if "\ndeclare_metrics(" in path.read_text(encoding="utf-8"):
            importlib.import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
    drawn = {(line.name, chart.kind) for section in SECTIONS for chart in section.charts for line in chart.lines}
    names = {name if kind != "heat" else f"{name}_3" for name, kind in drawn if kind != "bias"}
    # Those under part/ the report computes itself.
    unknown = {name for name in names if not name.startswith("part/") and not is_declared(name.replace("*", "x"))}
    assert unknown == set()


def test_one_name_has_one_meaning() -> None:
    name, metric = next(iter(declared_metrics().items()))
    declare_metrics({name: (metric.unit, metric.meaning)})
    with pytest.raises(ValueError, match="declared twice"):
        declare_metrics({name: (metric.unit, "something else")})
