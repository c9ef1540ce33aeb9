"""``BoltConfig``: TRL's ``GRPOConfig`` with the settings of baseline, curriculum and adaptive KL.

The defaults are those of ``bolt_ray.core``'s own records, which also check the values. TRL refuses ``num_generations``
below 2, since the mean of a group of one is its reward; the advantage against a baseline needs no group.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from trl import GRPOConfig

from bolt_ray.core.advantages import NORMALIZATIONS, AdvantageOptions
from bolt_ray.core.baseline import BaselineSettings
from bolt_ray.core.curriculum import CurriculumSettings
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.kl_options import CONTROLLERS, SHAPES, KLSettings
from bolt_ray.core.settings import SettingError, Settings, nearest_hint

_Record = TypeVar("_Record", bound=Settings)

KL_METHODS = ("clip", "sigmoid", "length_normalized", "dynamic")
"""What ``kl_adaptation_method`` may name, alone or joined by +."""

_NAMES = {
    "rho_min": "baseline_rho_min",
    "rho_max": "baseline_rho_max",
    "d_half": "baseline_D_half",
    "reward_range": "baseline_reward_range",
    "epsilon": "curriculum_epsilon",
    "update_freq": "curriculum_update_freq",
    "clip_threshold": "kl_clip_threshold",
    "target": "kl_target",
    "adaptation": "kl_adaptation_method",
    "controller": "kl_adaptation_method",
    "coef": "beta",
}
"""Fields of the core's records by their name here, where that is another."""


def _core(record: type[Settings], name: str, help_text: str | None = None) -> Any:
    """A field with the default, and unless another is given the meaning, of a core setting."""
    (found,) = [each for each in fields(record) if each.name == name]  # type: ignore[arg-type]
    assert found.default is not MISSING
    return field(default=found.default, metadata={"help": help_text or found.metadata["description"]})


@dataclass
class BoltConfigMixin:
    """The settings alone, to put before a ``GRPOConfig`` that another library has replaced.

    Raises:
        ConfigError: a value that cannot be, or settings that contradict each other.
    """

    num_generations: int | None = field(
        default=1, metadata={"help": "completions per prompt; 1 needs use_baseline_advantages"}
    )
    curriculum_enabled: bool = field(
        default=True, metadata={"help": "draw prompts whose outcome is uncertain more often, by the baseline"}
    )
    curriculum_epsilon: float = _core(CurriculumSettings, "epsilon")
    curriculum_update_freq: int = _core(CurriculumSettings, "update_freq")
    baseline_enabled: bool = field(default=True, metadata={"help": "keep a baseline for every prompt over the run"})
    baseline_rho_min: float = _core(BaselineSettings, "rho_min")
    baseline_rho_max: float = _core(BaselineSettings, "rho_max")
    baseline_D_half: float = _core(BaselineSettings, "d_half")  # noqa: N815 - its known name
    baseline_warm_start: str | None = field(
        default=None,
        metadata={"help": "a warm-start file, or the store of another run: a checkpoint under Ray or of this trainer"},
    )
    use_baseline_advantages: bool | None = field(
        default=None,
        metadata={"help": "advantages against the baseline in place of TRL's; default: as baseline_enabled"},
    )
    baseline_normalize: str | None = field(
        default=None,
        metadata={
            "help": "how these are normalized over the generation batch: token, batch, group or none; in place of "
            "scale_rewards. Default: token, and none with loss_type dr_grpo or scale_rewards none"
        },
    )
    baseline_reward_range: list[float] | None = field(
        default=None,
        metadata={"help": "[low, high] of the weighted sum of rewards; default: [0, 1], and other rewards are refused"},
    )
    estimator: str = _core(BaselineSettings, "estimator")
    strength: float | str = _core(BaselineSettings, "strength")
    kl_adaptation_method: str = field(
        default="none",
        metadata={"help": f"none, or of {', '.join(KL_METHODS)} one or several joined by +"},
    )
    kl_clip_threshold: float = _core(KLSettings, "clip_threshold")
    kl_target: float = _core(KLSettings, "target")
    beta_min: float = _core(KLSettings, "beta_min")
    beta_schedule_steps: int = _core(KLSettings, "beta_schedule_steps")
    reward_threshold: float = _core(KLSettings, "reward_threshold")

    def __post_init__(self) -> None:
        if self.use_baseline_advantages is None:
            self.use_baseline_advantages = self.baseline_enabled
        self._check()
        alone = self.num_generations == 1
        if alone:
            self.num_generations = _GroupOfOne(1)
            # TRL compares it with the evaluation's batch while it is that.
            self.num_generations_eval = getattr(self, "num_generations_eval", None) or 1
        super().__post_init__()  # type: ignore[misc]  # GRPOConfig's, which comes after this class
        if alone:
            self.num_generations = 1

    @property
    def keeps_store(self) -> bool:
        """Whether there is a store of prompts' values: for advantages, or for the curriculum alone."""
        return self.baseline_enabled or self.curriculum_enabled

    @property
    def rho_varies(self) -> bool:
        """Whether the policy's drift changes what a visit leaves of old evidence."""
        return self.baseline_rho_min < self.baseline_rho_max

    @property
    def baseline_settings(self) -> BaselineSettings:
        given = self.baseline_reward_range
        return _made(
            BaselineSettings,
            estimator=self.estimator,
            strength=self.strength if self.strength == "auto" else _number("strength", self.strength),
            rho_min=self.baseline_rho_min,
            rho_max=self.baseline_rho_max,
            d_half=self.baseline_D_half,
            reward_range=None if given is None else _pair(given),
        )

    @property
    def curriculum_settings(self) -> CurriculumSettings:
        return _made(CurriculumSettings, epsilon=self.curriculum_epsilon, update_freq=self.curriculum_update_freq)

    @property
    def advantage_options(self) -> AdvantageOptions:
        if self.baseline_normalize is not None:
            return AdvantageOptions(normalize=self.baseline_normalize)
        as_it_is = getattr(self, "loss_type", None) == "dr_grpo" or getattr(self, "scale_rewards", None) == "none"
        return AdvantageOptions(normalize="none") if as_it_is else AdvantageOptions()

    @property
    def kl_settings(self) -> KLSettings:
        methods = [] if self.kl_adaptation_method == "none" else self.kl_adaptation_method.split("+")
        for name in methods:
            if name not in KL_METHODS:
                raise ConfigError(
                    f"kl_adaptation_method: {name!r} is none of none, {', '.join(KL_METHODS)}"
                    f"{nearest_hint(name, KL_METHODS)}; join several by +"
                )
        controllers = [name for name in methods if name in CONTROLLERS]
        if len(controllers) > 1:
            raise ConfigError("kl_adaptation_method: names dynamic twice")
        return _made(
            KLSettings,
            adaptation=tuple(name for name in methods if name in (*SHAPES, "length_normalized")),
            controller=controllers[0] if controllers else None,
            coef=getattr(self, "beta", None) or 0.0,
            clip_threshold=self.kl_clip_threshold,
            target=self.kl_target,
            beta_min=self.beta_min,
            beta_schedule_steps=self.beta_schedule_steps,
            reward_threshold=self.reward_threshold,
        )

    def _check(self) -> None:
        if self.use_baseline_advantages and not self.baseline_enabled:
            raise ConfigError("use_baseline_advantages: needs baseline_enabled=True, there is no baseline otherwise")
        if self.num_generations == 1 and not self.use_baseline_advantages:
            raise ConfigError(
                "num_generations: 1 leaves TRL's own advantages, a reward against the mean of its group, at 0; set it "
                "to 2 or more, or use_baseline_advantages=True"
            )
        if self.baseline_normalize not in (None, *NORMALIZATIONS):
            raise ConfigError(
                f"baseline_normalize: is {self.baseline_normalize!r}; choose one of {', '.join(NORMALIZATIONS)}"
                f"{nearest_hint(str(self.baseline_normalize), NORMALIZATIONS)}"
            )
        if self.baseline_warm_start is not None and not self.keeps_store:
            raise ConfigError("baseline_warm_start: does nothing without baseline_enabled or curriculum_enabled")
        if self.use_baseline_advantages and getattr(self, "multi_objective_aggregation", None) == "normalize_then_sum":
            raise ConfigError(
                "multi_objective_aggregation: the baseline is of one reward, the weighted sum; leave "
                "sum_then_normalize, or set use_baseline_advantages=False"
            )
        # Made once here, for their checks.
        _ = self.baseline_settings, self.curriculum_settings, self.kl_settings


@dataclass
class BoltConfig(BoltConfigMixin, GRPOConfig):  # type: ignore[misc]  # TRL has no types
    """``GRPOConfig`` with the settings of `BoltConfigMixin`, and K = 1 by default.

    Raises:
        ConfigError: a value that cannot be, or settings that contradict each other; TRL's own checks raise ValueError.
    """


class _GroupOfOne(int):
    """The number 1, which TRL's check ``num_generations < 2`` lets pass; in every other way 1."""

    def __lt__(self, other: object) -> bool:
        return False


def _made(record: type[_Record], **values: Any) -> _Record:
    """A core record; what it refuses is said in the names of this config."""
    try:
        return record(**values)
    except SettingError as error:
        reason = error.reason.replace("kl.coef", "beta").replace("rho_max", "baseline_rho_max")
        raise ConfigError(f"{_NAMES.get(error.key, error.key)}: {reason}") from None


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ConfigError(f"{name}: is {value!r}; give auto or a number") from None


def _pair(given: Any) -> tuple[float, float]:
    if not isinstance(given, list | tuple) or len(given) != 2:
        raise ConfigError(f"baseline_reward_range: is {given!r}; give [low, high]")
    return _number("baseline_reward_range", given[0]), _number("baseline_reward_range", given[1])
