"""Settings of the curriculum (``curriculum:``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bolt_ray.core.curriculum.strategies.registry import check_strategy, strategy_names
from bolt_ray.core.settings import SettingError, Settings, setting

MIN_TEMPERATURE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class CurriculumSettings(Settings):
    """``curriculum:`` - which prompts are drawn more often than others.

    Raises:
        SettingError: an unknown strategy, or a number outside its range (a ValueError).
    """

    strategy: str = setting(
        "uncertainty", "how prompts are weighted, or file.py:Class for one of your own", choices=strategy_names
    )
    update_freq: int = setting(10, "steps between two refreshes of the weights", unit="steps", ge=1)
    window_steps: int = setting(
        1,
        "steps within which no prompt is drawn twice; the longer, the more the draws even out what the weights ask",
        unit="steps",
        ge=1,
    )
    epsilon: float = setting(0.05, "uncertainty: added to every weight, so that every prompt can be drawn", ge=0)
    gamma: float = setting(0.0, "uncertainty: power of N_eff that divides the weight; 0 leaves N_eff out", ge=0)
    target: float = setting(
        0.5, "the success rate that thompson aims at and competence_based takes as competent", ge=0, le=1
    )
    temperature: float = setting(1.0, "easy_first, competence_based, cures, sec: lower is sharper", ge=MIN_TEMPERATURE)
    num_bins: int = setting(5, "easy_first, competence_based: bins of difficulty", ge=1)
    binning: Literal["quantile", "compatible"] = setting(
        "quantile",
        "easy_first, competence_based: quantile: bins of equal size; compatible: as earlier systems cut them, which "
        "leaves the first bin only the easiest prompt",
    )
    ema_alpha: float | None = setting(
        None,
        "easy_first, competence_based: bins of each prompt's own moving average of rewards, this the weight of the "
        "newest; default: bins of v̂",
        ge=0,
        le=1,
    )
    learning_rate: float = setting(0.5, "sec: step of the bandit's Q values", ge=0, le=1)
    category: str | None = setting(None, "sec: the metadata column that names a prompt's category")
    skip_solved: bool = setting(
        False, "draw prompts less often the longer they have been solved (GRESO, arXiv 2506.02177)"
    )
    exploration_floor: float = setting(0.0, "share of the draws made uniformly", ge=0, le=1)
    staleness_bonus: float = setting(0.0, "by how much a prompt never seen is raised over one just seen; 0: off", ge=0)
    allocate_rollouts: bool = setting(
        False, "with K > 1: more completions for more uncertain prompts (CurES, arXiv 2510.01037)"
    )

    importance: float = setting(
        0.0,
        "κ: the loss of a draw is multiplied by (how often it is drawn / how often uniform draws would)^-κ, at most by "
        "10. 0: what is drawn more often counts more; 1: as if drawn uniformly",
        ge=0,
        le=1,
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        check_strategy(self.strategy)
        if self.window_steps > self.update_freq:
            raise SettingError(
                "window_steps",
                f"{self.window_steps} is above update_freq {self.update_freq}; weights change in between",
            )
