"""Settings records: frozen standard-library dataclasses whose fields carry meaning, unit and bounds.

A component owns one such record. ``bolt_ray.config`` composes them: pydantic reads the same metadata (description
and bounds become those of its own fields), so nothing is written twice and no component imports pydantic.

    @dataclass(frozen=True, slots=True, kw_only=True)
    class TrainSettings(Settings):
        max_steps: int = setting(200, "optimizer steps in all", unit="steps", ge=1)
"""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from bolt_ray.core.hints import nearest

_BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "gt": ("above", lambda value, bound: value > bound),
    "ge": ("at least", lambda value, bound: value >= bound),
    "lt": ("below", lambda value, bound: value < bound),
    "le": ("at most", lambda value, bound: value <= bound),
}


class SettingError(ValueError):
    """A setting that cannot be; the text begins with its name.

    Attributes:
        key: name of the field within its record.
        reason: what is wrong with its value, and what to do.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.key} {self.reason}"


class Settings:
    """Base of every settings record: unknown keys are refused by pydantic, bounds checked on construction."""

    __slots__ = ()
    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        check_fields(self)


def setting(
    default: Any,
    description: str,
    *,
    unit: str | None = None,
    choices: Callable[[], list[str]] | None = None,
    **bounds: Any,
) -> Any:
    """A dataclass field with its meaning.

    Args:
        default: the value; ``...`` for a field that must be given; a list, dict or class is called anew each time.
        description: what it does, for people.
        unit: of its numbers, for people.
        choices: names it may have, for a name that a registry checks; shown in schema and documentation.
        bounds: of numbers ``gt``, ``ge``, ``lt``, ``le``; of texts ``min_length``, ``max_length``, ``pattern``.
    """
    extra = {key: value for key, value in (("unit", unit), ("choices", choices)) if value is not None}
    metadata = {"description": description, **bounds, **({"json_schema_extra": _Extra(extra)} if extra else {})}
    if default is ...:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class _Extra:
    """Adds unit and choices to a field's JSON schema; choices are asked for only then, a registry may be large."""

    def __init__(self, extra: dict[str, Any]) -> None:
        self.unit: str | None = extra.get("unit")
        self.choices: Callable[[], list[str]] | None = extra.get("choices")

    def __call__(self, schema: dict[str, Any]) -> None:
        if self.unit is not None:
            schema["unit"] = self.unit
        if self.choices is not None:
            schema["examples"] = self.choices()


def check_fields(record: Any) -> None:
    """Check each field of a settings record: numbers against its bounds, names against its ``Literal``.

    Raises:
        SettingError: names the field.
    """
    literals = _literals(type(record))
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name in literals and value is not None:
            require_choice(field.name, value, literals[field.name])
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            raise SettingError(field.name, f"must be a finite number, not {value}")
        for name, (words, holds) in _BOUNDS.items():
            bound = field.metadata.get(name)
            if bound is not None and not holds(value, bound):
                raise SettingError(field.name, f"must be {words} {bound:g}, not {value:g}")


@functools.cache
def _literals(record: type) -> dict[str, tuple[Any, ...]]:
    """The values that fields of a type ``Literal[…]``, or ``Literal[…] | None``, may have."""
    found = {}
    for name, annotation in typing.get_type_hints(record).items():
        parts = typing.get_args(annotation) if typing.get_origin(annotation) is types.UnionType else (annotation,)
        known = [part for part in parts if part is not type(None)]
        if len(known) == 1 and typing.get_origin(known[0]) is typing.Literal:
            found[name] = typing.get_args(known[0])
    return found


def nearest_hint(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the nearest of ``known``, "" where none is near."""
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near else ""


def require_choice(key: str, value: Any, known: Iterable[Any]) -> None:
    """Refuse a name that is not one of ``known``.

    Raises:
        SettingError: names the nearest and all of them.
    """
    known = list(known)
    if value not in known:
        names = [str(name) for name in known]
        raise SettingError(key, f"is {value!r}; choose one of {', '.join(names)}{nearest_hint(str(value), names)}")
