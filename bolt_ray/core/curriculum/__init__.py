"""Which prompts are worth training on: weights over all of them, from the baseline's columns."""

from bolt_ray.core.curriculum.curriculum import Curriculum
from bolt_ray.core.curriculum.modifiers import allocate_rollouts
from bolt_ray.core.curriculum.settings import CurriculumSettings
from bolt_ray.core.curriculum.strategies.base import MemorylessStrategy, ScoredDraws, Strategy
from bolt_ray.core.curriculum.strategies.registry import STRATEGIES, make_strategy
from bolt_ray.core.records import PromptColumns

__all__ = [
    "STRATEGIES",
    "Curriculum",
    "CurriculumSettings",
    "MemorylessStrategy",
    "PromptColumns",
    "ScoredDraws",
    "Strategy",
    "allocate_rollouts",
    "make_strategy",
]
