"""What every metric means: each module that emits some declares them, and docs/metrics.md is made from that.

    declare_metrics({"reward/mean": ("reward", "mean raw reward of the step's scored completions")})

A part in braces stands for any name: ``reward/part/{name}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricMeaning:
    """A metric's unit and meaning."""

    unit: str
    meaning: str


_declared: dict[str, MetricMeaning] = {}


def declare_metrics(table: Mapping[str, tuple[str, str]]) -> None:
    """Say what metrics mean: name → (unit, meaning).

    Raises:
        ValueError: a name was declared before with another meaning.
    """
    for name, (unit, meaning) in table.items():
        found = MetricMeaning(unit=unit, meaning=meaning)
        if _declared.setdefault(name, found) != found:
            raise ValueError(f"metric {name!r} is declared twice")


def declared_metrics() -> dict[str, MetricMeaning]:
    """Everything declared by the modules imported so far, by name."""
    return dict(sorted(_declared.items()))


def is_declared(name: str) -> bool:
    """True for a declared name, or one that a declared pattern stands for."""
    return name in _declared or any(_pattern(known).fullmatch(name) for known in _declared if "{" in known)


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(
        "".join(".+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{\w+\})", name))
    )
