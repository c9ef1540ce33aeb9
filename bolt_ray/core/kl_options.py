"""Settings of the KL term (``kl:``), and which requests make no sense."""

from __future__ import annotations

from dataclasses import dataclass

from bolt_ray.core.settings import SettingError, Settings, require_choice, setting

ESTIMATORS = ("k1", "k2", "k3", "abs")
SHAPES = ("clip", "sigmoid", "hinge", "softplus")
ADAPTATIONS = (*SHAPES, "length_normalized")
PLACEMENTS = ("loss", "reward")
UNITS = ("token", "sequence")
CONTROLLERS = ("dynamic", "ziegler", "ppo_penalty")


@dataclass(frozen=True, slots=True, kw_only=True)
class KLOptions(Settings):
    """How the KL term is measured and shaped.

    Raises:
        SettingError: an unknown name or an impossible combination (a ValueError).
    """

    estimator: str = setting(
        "k3",
        "estimator of the KL from single samples; with an adaptation it is k2 whatever stands here",
        choices=lambda: list(ESTIMATORS),
    )
    unbiased: bool = setting(
        True, "with placement loss: multiply k3 by the differentiable ratio, so that its gradient is that of KL(π‖ref)"
    )
    placement: str = setting(
        "loss",
        "loss: a term of the loss; reward: subtracted from the reward as coef * (sum of KL over the tokens)",
        choices=lambda: list(PLACEMENTS),
    )
    adaptation: tuple[str, ...] = setting(
        (), "one shape of the KL, with or without length_normalized; none: no shape", choices=lambda: list(ADAPTATIONS)
    )
    unit: str = setting(
        "token",
        "with placement loss: the shape acts on each token's KL, or on the sum over the sequence",
        choices=lambda: list(UNITS),
    )
    clip_threshold: float = setting(
        1.0, "clip: K above it is cut; beyond it there is no pull back to the reference", unit="nats", gt=0
    )
    target: float = setting(0.1, "sigmoid: K at which the gate is half open", unit="nats", ge=0)
    temperature: float = setting(1.0, "sigmoid: width of the gate", unit="nats", gt=0)
    threshold: float = setting(0.1, "hinge and softplus: K below it costs (almost) nothing", unit="nats", ge=0)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        require_choice("estimator", self.estimator, ESTIMATORS)
        require_choice("placement", self.placement, PLACEMENTS)
        require_choice("unit", self.unit, UNITS)
        for name in self.adaptation:
            require_choice("adaptation", name, ADAPTATIONS)
        if self.estimator == "k1" and self.placement == "loss":
            raise SettingError(
                "estimator", "k1 has zero expected gradient as a loss; use k2 or k3, or placement: reward"
            )
        if len(set(self.adaptation)) != len(self.adaptation):
            raise SettingError("adaptation", f"names one method twice: {', '.join(self.adaptation)}")
        shapes = [name for name in self.adaptation if name in SHAPES]
        if len(shapes) > 1:
            raise SettingError(
                "adaptation",
                f"combines {' and '.join(shapes)}; length_normalized may go with at most one shape",
            )
        if self.adaptation and self.placement == "reward":
            raise SettingError("adaptation", "shapes a differentiable KL; it needs placement: loss")

    @property
    def shape(self) -> str | None:
        return next((name for name in self.adaptation if name in SHAPES), None)

    @property
    def length_normalized(self) -> bool:
        return "length_normalized" in self.adaptation


@dataclass(frozen=True, slots=True, kw_only=True)
class KLSettings(KLOptions):
    """``kl:`` - the pull towards the reference model: `KLOptions`, the coefficient β and its controller.

    Raises:
        SettingError: also a controller or a shape without a coefficient.
    """

    coef: float = setting(0.0, "β; 0: no KL term, and no reference model is loaded", ge=0)
    controller: str | None = setting(
        None, "changes β once per optimizer step; default: β stays", choices=lambda: list(CONTROLLERS)
    )
    controller_target: float = setting(
        0.1, "ziegler and ppo_penalty: the KL they steer to, in the unit of unit", unit="nats", gt=0
    )
    window: int = setting(10, "dynamic: rewards held before β is lowered", unit="steps", ge=1)
    reward_threshold: float = setting(0.8, "dynamic: β falls while the mean reward is above this")
    dynamic_beta_decay: float = setting(0.9, "dynamic: factor of β at each such step", gt=0, le=1)
    beta_min: float = setting(0.0, "dynamic: β never falls below it, and is this at the end of the schedule", ge=0)
    beta_schedule_steps: int = setting(1000, "dynamic: after so many steps β is beta_min", unit="steps", ge=1)
    horizon: float = setting(10_000, "ziegler: sequences over which an error of 1 doubles β", unit="sequences", gt=0)

    def __post_init__(self) -> None:
        KLOptions.__post_init__(self)
        if self.controller is not None:
            require_choice("controller", self.controller, CONTROLLERS)
        if self.coef == 0.0 and self.controller is not None:
            raise SettingError("controller", f"{self.controller!r} multiplies kl.coef, which is 0; set kl.coef above 0")
        if self.coef == 0.0 and self.adaptation:
            names = "+".join(self.adaptation)
            raise SettingError("adaptation", f"{names!r} has no effect with kl.coef 0; set kl.coef above 0")
        if self.controller == "dynamic" and self.beta_min > self.coef:
            raise SettingError("beta_min", f"{self.beta_min:g} is above kl.coef {self.coef:g}, where β starts")
