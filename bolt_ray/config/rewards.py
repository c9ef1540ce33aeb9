"""An entry of ``rewards:`` as people write it: a name, a mapping, a reference to a function, or a function itself."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, Union

from pydantic import BeforeValidator, Discriminator, Tag

from bolt_ray.core.plugins import is_reference
from bolt_ray.core.settings import nearest_hint
from bolt_ray.rewards.registry import REWARDS, reward_class
from bolt_ray.rewards.settings import RewardSettings

FROM_PYTHON = "callable"
"""The type of a function given as an object; a file cannot name one."""


def _read(value: Any) -> Any:
    """The entry as a mapping with a known ``type``.

    Raises:
        ValueError: unknown type; names the nearest.
    """
    if isinstance(value, RewardSettings):
        return value
    if isinstance(value, str):
        value = {"type": value}
    elif callable(value):
        value = {"type": FROM_PYTHON, "function": value}
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    if callable(kind):
        return {**value, "type": FROM_PYTHON, "function": kind}
    if not isinstance(kind, str):
        return value
    if is_reference(kind):
        if "function" in value:
            raise ValueError(f"give the function once: as `type: {kind}` or as `function:`")
        return {**value, "type": "function", "function": kind}
    if kind not in REWARDS:
        known = ", ".join(sorted(name for name in REWARDS if name != FROM_PYTHON))
        raise ValueError(
            f"unknown reward type {kind!r}{nearest_hint(kind, REWARDS)}; known: {known}; "
            "one of your own is `module:function` or `file.py:function`"
        )
    if kind == FROM_PYTHON and not callable(value.get("function")):
        raise ValueError(
            f"the reward {value.get('function')!r} was given as a function in Python, which a file cannot hold; "
            "put it into a file and name it as file.py:function"
        )
    return value


def _tag(value: Any) -> str | None:
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


if TYPE_CHECKING:
    Reward: TypeAlias = RewardSettings
else:
    _ENTRIES = tuple(Annotated[reward_class(name).settings, Tag(name)] for name in REWARDS)
    Reward = Annotated[Annotated[Union[_ENTRIES], Discriminator(_tag)], BeforeValidator(_read)]  # noqa: UP007


def plain_reward(reward: RewardSettings) -> dict[str, Any]:
    """The entry as a file has it; a function given as an object is shown by its name."""
    entry = {field.name: getattr(reward, field.name) for field in fields(reward)}
    return {key: getattr(value, "__name__", repr(value)) if callable(value) else value for key, value in entry.items()}
