"""The plain settings of a curriculum."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bolt_ray.core.curriculum.binning import MIN_TEMPERATURE


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumSettings:
    """Which prompts are drawn more often than others.

    Attributes:
        strategy: a name of `bolt_ray.core.curriculum.strategies.registry.STRATEGIES`.
        epsilon: ``uncertainty``: added to every weight.
        gamma: ``uncertainty``: power of N_eff that divides the weight; 0 leaves N_eff out.
        target: the success rate aimed at by ``thompson`` and taken as competent by ``competence_based``.
        temperature: ``easy_first``, ``competence_based``, ``cures``, ``sec``; >= 0.01, lower is sharper.
        num_bins: ``easy_first``, ``competence_based``: quantile bins of v_hat.
        learning_rate: ``sec``: step of the bandit's Q values, in [0, 1].
        skip_solved: draw prompts less often the longer they have been solved (GRESO).
        exploration_floor: share of the draws made uniformly, in [0, 1].
        staleness_bonus: by how much a prompt never seen is raised over one just seen; 0 is off.
        seed: seeds the curriculum's own generators, 0 to 2^64 - 1.

    Raises:
        ValueError: A number is outside its range.
    """

    strategy: str = "uniform"
    epsilon: float = 0.05
    gamma: float = 0.0
    target: float = 0.5
    temperature: float = 1.0
    num_bins: int = 5
    learning_rate: float = 0.5
    skip_solved: bool = False
    exploration_floor: float = 0.0
    staleness_bonus: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        bounds = {
            "epsilon": (self.epsilon, 0.0, math.inf),
            "gamma": (self.gamma, 0.0, math.inf),
            "target": (self.target, 0.0, 1.0),
            "temperature": (self.temperature, MIN_TEMPERATURE, math.inf),
            "num_bins": (self.num_bins, 1, math.inf),
            "learning_rate": (self.learning_rate, 0.0, 1.0),
            "exploration_floor": (self.exploration_floor, 0.0, 1.0),
            "staleness_bonus": (self.staleness_bonus, 0.0, math.inf),
            "seed": (self.seed, 0, 2**64 - 1),
        }
        for name, (value, low, high) in bounds.items():
            if not (low <= value <= high and math.isfinite(value)):
                raise ValueError(f"curriculum {name} is {value}; expected a number from {low} to {high}")
