"""Settings of the embedded task (``arithmetic:``): its problems, its model, and how far the model is pretrained.

Each part reads the record that holds its own settings; ``ArithmeticSettings`` is all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bolt_ray.core.settings import SettingError, Settings, setting
from bolt_ray.tasks.tiny.settings import TinyModelSettings


@dataclass(frozen=True, kw_only=True)
class ProblemSettings(Settings):
    """The distribution problems are drawn from."""

    max_digits: int = setting(1, "digits of the numbers in an expression; each has 1 to max_digits", ge=1, le=9)
    max_depth: int = setting(
        2, "operations nested in one another; each problem has 1 to max_depth, deeper ones more often", ge=1, le=6
    )
    max_result_digits: int | None = setting(
        None,
        "digits a numerator or denominator of any result, also an intermediate one, may have; default: max_digits + 1",
        ge=1,
        le=64,
    )
    unary_fraction: float = setting(0.3, "share of the operations that are unary (minus, abs, prev, next)", ge=0, le=1)
    negative_fraction: float = setting(0.0, "share of the numbers that are negative", ge=0, le=1)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.result_digits < self.max_digits:
            raise SettingError("max_result_digits", f"{self.max_result_digits} is below max_digits {self.max_digits}")

    @property
    def result_digits(self) -> int:
        """``max_result_digits`` with None resolved."""
        return self.max_digits + 1 if self.max_result_digits is None else self.max_result_digits


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(ProblemSettings, TinyModelSettings):
    """How the model is taught by supervised learning. Held-out prompts are never shown."""

    pretrain_steps: int = setting(1500, "optimizer steps on demonstrations with worked steps", unit="steps", ge=1)
    hasty_steps: int = setting(
        150,
        "further steps in which some demonstrations give the answer alone. All are right, but without the worked "
        "steps the model can hardly find them: that working pays is left to reinforcement learning to discover",
        unit="steps",
        ge=0,
    )
    hasty_fraction: float = setting(
        0.55, "share of the demonstrations of those further steps that give the answer alone", ge=0, le=1
    )
    pretrain_batch_size: int = setting(64, "problems per step", ge=1)
    pretrain_learning_rate: float = setting(
        2e-3,
        "peak, after the warm-up; a cosine brings it to a tenth at the end of pretrain_steps, the further steps use a "
        "quarter",
        gt=0,
    )
    pretrain_warmup_steps: int = setting(50, "steps over which the learning rate rises", unit="steps", ge=0)
    pretrain_weight_decay: float = setting(0.01, "of AdamW", ge=0)
    pretrain_eval_problems: int = setting(512, "held-out problems for the accuracies of the report", ge=0)
    pretrain_eval_tokens: int = setting(96, "length limit of a completion in that evaluation", unit="tokens", ge=1)
    pretrain_seed: int = setting(0, "of the weights, the problems and the sampling")

    def __post_init__(self) -> None:
        ProblemSettings.__post_init__(self)
        TinyModelSettings.__post_init__(self)

    @property
    def total_steps(self) -> int:
        return self.pretrain_steps + self.hasty_steps


@dataclass(frozen=True, kw_only=True)
class ProblemFileSettings(ProblemSettings):
    """The files of problems."""

    num_train: int = setting(20_000, "distinct problems to train on", ge=1)
    num_heldout: int = setting(1024, "distinct problems to evaluate on; none is among those trained on", ge=1)
    data_seed: int = setting(0, "of the problems in the files")

    def __post_init__(self) -> None:
        ProblemSettings.__post_init__(self)


@dataclass(frozen=True, kw_only=True)
class ArithmeticSettings(PretrainSettings, ProblemFileSettings):
    """``arithmetic:`` - the embedded task: its problems, its model and how far the model is pretrained."""

    fresh: bool = setting(
        False,
        "a new problem at every draw: num_train is then as many as the run draws, and each is drawn once. They have no "
        "history, so v̂ is the level of the policy, and a curriculum has nothing to choose by",
    )
    cache_dir: str = setting("~/.cache/bolt-ray/arithmetic", "where models and problems are kept")

    def __post_init__(self) -> None:
        PretrainSettings.__post_init__(self)

    @property
    def cache(self) -> Path:
        return Path(self.cache_dir).expanduser().absolute()
