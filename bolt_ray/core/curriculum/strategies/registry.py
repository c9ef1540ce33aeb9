"""The strategies by name: a new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable

from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import Strategy
from bolt_ray.core.curriculum.strategies.competence_based import CompetenceBased
from bolt_ray.core.curriculum.strategies.cures import Cures
from bolt_ray.core.curriculum.strategies.easy_first import EasyFirst
from bolt_ray.core.curriculum.strategies.sec import Sec
from bolt_ray.core.curriculum.strategies.thompson import Thompson
from bolt_ray.core.curriculum.strategies.uncertainty import Uncertainty
from bolt_ray.core.curriculum.strategies.uniform import Uniform
from bolt_ray.core.hints import nearest

STRATEGIES: dict[str, Callable[[CurriculumSettings], Strategy]] = {
    "uniform": Uniform,
    "uncertainty": Uncertainty,
    "thompson": Thompson,
    "easy_first": EasyFirst,
    "competence_based": CompetenceBased,
    "cures": Cures,
    "sec": Sec,
}


def make_strategy(settings: CurriculumSettings) -> Strategy:
    """The strategy the settings name.

    Raises:
        ValueError: There is none of that name.
    """
    build = STRATEGIES.get(settings.strategy)
    if build is None:
        near = nearest(settings.strategy, STRATEGIES)
        hint = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"unknown curriculum strategy {settings.strategy!r}; known: {', '.join(STRATEGIES)}{hint}")
    return build(settings)
