"""The strategies by name: a new one is one file and one line here; one's own is ``strategy: file.py:Class``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from bolt_ray.core.plugins import is_reference, load_object
from bolt_ray.core.settings import require_choice

if TYPE_CHECKING:
    from bolt_ray.core.curriculum.settings import CurriculumSettings
    from bolt_ray.core.curriculum.strategies.base import Strategy

_HERE = __name__.rpartition(".")[0]

STRATEGIES: Mapping[str, str] = {
    "uniform": f"{_HERE}.uniform:Uniform",
    "uncertainty": f"{_HERE}.uncertainty:Uncertainty",
    "thompson": f"{_HERE}.thompson:Thompson",
    "easy_first": f"{_HERE}.bins:EasyFirst",
    "competence_based": f"{_HERE}.bins:CompetenceBased",
    "cures": f"{_HERE}.cures:Cures",
    "sec": f"{_HERE}.sec:Sec",
}
"""Names, and where the class is: it takes the `CurriculumSettings` and is a `Strategy`."""


def strategy_names() -> list[str]:
    return list(STRATEGIES)


def check_strategy(name: str) -> None:
    """Refuse a name that is neither here nor a reference to a user's class.

    Raises:
        SettingError: names the nearest.
    """
    if not is_reference(name):
        require_choice("strategy", name, STRATEGIES)


def make_strategy(settings: CurriculumSettings) -> Strategy:
    """The strategy the settings name.

    Raises:
        ValueError: a user's class cannot be found.
    """
    return cast("Strategy", load_object(STRATEGIES.get(settings.strategy, settings.strategy))(settings))
