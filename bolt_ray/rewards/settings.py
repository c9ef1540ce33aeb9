"""Settings every reward has (an entry of ``rewards:``), their names, and how they are made definite.

    rewards:
      - {type: math, weight: 1.0}
      - {type: format, weight: 0.2, structure: think_answer}
      - {type: "my_rewards.py:score", weight: 0.5, name: style}

A reward's own settings stand beside its class. A dataset may name the rewards that apply to it; without that all do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from bolt_ray.core.settings import SettingError, Settings, nearest_hint, setting

if TYPE_CHECKING:
    from bolt_ray.rewards.protocol import RewardInput

UNKNOWN_BOUNDS = (0.0, 1.0)
"""What a reward is taken to give where it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings(Settings):
    """What every reward has."""

    shares_process: ClassVar[bool] = False
    """Starts at once and cannot crash: such rewards share one process. Every other reward gets a process of its own,
    so that a crash of a user's function does not cost a reward model its reload."""

    reads_token_ids: ClassVar[bool] = False
    """Its process is sent the completions' token ids, which cost more than all else of a completion together."""

    always_within: ClassVar[tuple[float, float] | None] = None
    """The lowest and highest value it can give; None where that is not known."""

    type: str = setting(..., "a built-in reward, or file.py:function (module:function) for one of your own")
    name: str | None = setting(
        None,
        "its name in metrics and reasons, and what datasets refer to; default: its type",
        min_length=1,
        pattern=r"^[A-Za-z0-9_.\-]+$",
    )
    weight: float = setting(1.0, "factor of its value in the sum; 0 only reports it, a negative one punishes")
    shaping: bool = setting(False, "counts for the advantage's reward only, not for the baseline's success probability")
    timeout_s: float | None = setting(None, "wall-clock limit of one call; default: scoring.timeout_s", unit="s", gt=0)
    memory_mb: int | None = setting(
        None, "private memory of its process; default: scoring.memory_mb", unit="MiB", ge=64
    )
    env: tuple[str, ...] | None = setting(
        None,
        "environment variables of the scorers' machines that its process gets, by name, beside those that say how the "
        "machine is set up; default: scoring.env",
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        check_variable_names("env", self.env or ())

    @property
    def part_name(self) -> str:
        """The name; of a definite reward."""
        assert self.name is not None, "definite_rewards() comes first"
        return self.name

    @property
    def limit_s(self) -> float:
        """The limit of one call; of a definite reward."""
        assert self.timeout_s is not None, "definite_rewards() comes first"
        return self.timeout_s

    @property
    def limit_mb(self) -> int:
        """The memory of its process; of a definite reward."""
        assert self.memory_mb is not None, "definite_rewards() comes first"
        return self.memory_mb

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that its process is given by name."""
        return self.env or ()

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Lowest and highest value it gives as it is set, before its weight; None where that is not known."""
        return self.always_within

    def right_completion(self, item: RewardInput) -> str | None:
        """A completion that must get the full reward by the row's answer alone; None where that is not known, or the
        answer does not matter."""
        return None

    @property
    def default_name(self) -> str:
        """What it is called where the settings give no name."""
        return self.type


def check_variable_names(key: str, names: Sequence[str]) -> None:
    """Refuse what cannot be the name of an environment variable, a value above all.

    Raises:
        SettingError: of the setting ``key``; the text itself is not repeated, it may be a secret.
    """
    if not all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in names):
        raise SettingError(key, "takes names of environment variables, as [API_KEY], and not their values")


def definite_rewards(
    rewards: Sequence[RewardSettings], *, timeout_s: float, memory_mb: int, env: Sequence[str] = ()
) -> tuple[RewardSettings, ...]:
    """The rewards with their names, and with the limits and variables of those that have none of their own.

    Raises:
        ValueError: two rewards were given the same name.
    """
    return tuple(
        replace(
            reward,
            name=name,
            timeout_s=reward.timeout_s or timeout_s,
            memory_mb=reward.memory_mb or memory_mb,
            env=tuple(env) if reward.env is None else reward.env,
        )
        for name, reward in zip(reward_names(rewards), rewards, strict=True)
    )


def reward_names(rewards: Sequence[RewardSettings]) -> list[str]:
    """The rewards' names in order: their own, else the type (or the function), numbered when repeated.

    Raises:
        ValueError: two rewards were given the same name.
    """
    given = [reward.name for reward in rewards if reward.name]
    repeated = sorted({name for name in given if given.count(name) > 1})
    if repeated:
        raise ValueError(f"rewards: several are named {', '.join(repeated)}; names must differ")
    taken, names = set(given), []
    for reward in rewards:
        name, number = reward.name or reward.default_name, 1
        while not reward.name and name in taken:
            number += 1
            name = f"{reward.default_name}_{number}"
        taken.add(name)
        names.append(name)
    return names


def reward_range(rewards: Sequence[RewardSettings], applied: Collection[str | None]) -> tuple[float, float]:
    """[low, high] of what completions can earn, shaping left out, whatever dataset they are of.

    Args:
        rewards: definite ones; one without known bounds is taken to give 0 to 1.
        applied: per dataset the name of the one reward it gets, or None for all of them.
    """
    lows, highs = [], []
    for name in applied:
        counted = [spec for spec in rewards if not spec.shaping and name in (None, spec.part_name)]
        ends = [sorted(spec.weight * end for end in spec.bounds or UNKNOWN_BOUNDS) for spec in counted]
        lows.append(math.fsum(low for low, _ in ends))
        highs.append(math.fsum(high for _, high in ends))
    low, high = min(lows), max(highs)
    return (low, high) if low < high else UNKNOWN_BOUNDS


def check_reward_references(names: Sequence[str], wanted: Sequence[str], *, place: str) -> None:
    """Check the reward names a dataset refers to.

    Raises:
        ValueError: one does not exist; the message names the nearest.
    """
    for name in wanted:
        if name not in names:
            hint = nearest_hint(name, names)
            raise ValueError(f"{place}: no reward is named {name!r}{hint}; there are: {', '.join(names)}")
