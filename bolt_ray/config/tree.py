"""The settings as a tree: which keys there are, and what each means."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bolt_ray.config.rewards import FROM_PYTHON
from bolt_ray.config.schema import RunConfig
from bolt_ray.rewards.registry import REWARDS, reward_class


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingField:
    """One key of a section.

    Attributes:
        name: the key.
        annotation: its type.
        default: its default; ``dataclasses.MISSING`` for a key that must be given.
        description: what it does.
        unit: of its numbers; "" for none.
        bounds: as text, "> 0, <= 1"; "" for none.
        choices: the names it may have, of a registry; () where its type says so.
    """

    name: str
    annotation: Any
    default: Any
    description: str
    unit: str = ""
    bounds: str = ""
    choices: tuple[str, ...] = ()


_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def section_fields(section: Any) -> list[SettingField]:
    """The keys of a section (a settings record, or a model), in order."""
    if issubclass(section, BaseModel):
        return [
            SettingField(
                name=name,
                annotation=field.annotation,
                default=dataclasses.MISSING if field.default is PydanticUndefined else field.default,
                description=field.description or "",
            )
            for name, field in section.model_fields.items()
        ]
    hints = typing.get_type_hints(section)
    found = []
    for field in dataclasses.fields(section):
        extra: Any = field.metadata.get("json_schema_extra")
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        found.append(
            SettingField(
                name=field.name,
                annotation=hints[field.name],
                default=default,
                description=field.metadata.get("description", ""),
                unit=getattr(extra, "unit", None) or "",
                bounds=", ".join(f"{sign} {field.metadata[k]:g}" for k, sign in _SIGNS.items() if k in field.metadata),
                choices=tuple(extra.choices()) if getattr(extra, "choices", None) else (),
            )
        )
    return found


def sections_in(annotation: Any) -> list[type]:
    """The settings records an annotation is made of."""
    if inspect.isclass(annotation):
        is_section = issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
        return [annotation] if is_section else []
    return [section for part in typing.get_args(annotation) for section in sections_in(part)]


def known_keys(place: Sequence[str]) -> list[str]:
    """Names a setting may have at ``place`` (list indices and union tags are skipped)."""
    sections: list[type] = [RunConfig]
    for part in place:
        found = [field.annotation for section in sections for field in section_fields(section) if field.name == part]
        if found:
            sections = [section for annotation in found for section in sections_in(annotation)]
        tagged = [section for section in sections if _has_tag(section, part)]
        sections = tagged or sections
    return sorted({field.name for section in sections for field in section_fields(section)})


def walk(section: type = RunConfig, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], SettingField]]:
    """Every setting below a section with its place: entries of a list below ``name[]``, rewards below their type."""
    for field in section_fields(section):
        below = sections_in(field.annotation)
        if section is RunConfig and field.name == "rewards":
            for name in file_rewards():
                yield from walk(reward_class(name).settings, (*place, "rewards[]", name))
            continue
        if not below:
            yield (*place, field.name), field
        for one in below:
            listed = typing.get_origin(field.annotation) in (list, tuple)
            yield from walk(one, (*place, f"{field.name}[]" if listed else field.name))


def file_rewards() -> list[str]:
    """The types an entry of ``rewards:`` in a file may have; a function given as an object is none of them."""
    return [name for name in REWARDS if name != FROM_PYTHON]


def _has_tag(section: type, tag: str) -> bool:
    """Whether ``tag`` is the ``type`` of this reward."""
    return tag in REWARDS and reward_class(tag).settings is section
