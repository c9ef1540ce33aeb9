"""The settings explained: one key for the terminal, all of them as a page, and as a JSON schema for editors."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from bolt_ray.config.name_hints import name_hint
from bolt_ray.config.presets import PRESETS
from bolt_ray.config.rewards import FROM_PYTHON
from bolt_ray.config.schema import RunConfig
from bolt_ray.config.tree import SettingField, file_rewards, section_fields, sections_in, walk
from bolt_ray.core.errors import ConfigError
from bolt_ray.rewards.registry import reward_class


def explain(key: str) -> str:
    """What the setting or section ``key`` (``train.learning_rate``, ``rewards[].math.decimals``, ``kl``) is, as text.

    Raises:
        ConfigError: there is none; says what it could be.
    """
    wanted = key.replace("[]", "").strip(".")
    found = [(place, field) for place, field in walk() if _dotted(place).replace("[]", "") == wanted]
    if not found:
        found = [(place, field) for place, field in walk() if _dotted(place).replace("[]", "").startswith(f"{wanted}.")]
    if found:
        return "\n".join(_explained(place, field) for place, field in found)
    raise ConfigError(f"there is no setting {key!r}{name_hint(wanted.split('.'))}")


def json_schema() -> dict[str, Any]:
    """The JSON schema of a config file: ``# yaml-language-server: $schema=…`` makes editors complete and check it."""
    schema = RunConfig.model_json_schema()
    definitions = schema["$defs"]
    del definitions[reward_class(FROM_PYTHON).settings.__name__]
    entries: list[dict[str, Any]] = [{"type": "string", "examples": file_rewards()}]
    for name in file_rewards():
        # Each type of reward is a section of its own; ``function`` is also chosen by a reference as the type.
        record = reward_class(name).settings.__name__
        if name != "function":
            definitions[record]["properties"]["type"] = {"const": name}
        else:
            definitions[record]["required"] = ["type"]
        entries.append({"$ref": f"#/$defs/{record}"})
    schema["properties"]["rewards"]["items"] = {"anyOf": entries}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def markdown() -> str:
    """The page of all settings."""
    lines = [
        "# Configuration",
        "",
        "<!-- Made by scripts/generate_docs.py from the code; change the descriptions there, not here. -->",
        "",
        "Every setting a config file may hold, section by section, with its default. On the command line a setting "
        "is laid over the file as `section.key=value`. `bolt-ray validate` prints what a file resolves to, "
        "`bolt-ray config explain KEY` one of the lines below, `bolt-ray config schema` a JSON schema for editors.",
        "",
        "## Top level",
        "",
        *_table(field for field in section_fields(RunConfig) if not sections_in(field.annotation)),
    ]
    for field in section_fields(RunConfig):
        sections = sections_in(field.annotation)
        if not sections:
            continue
        if field.name == "rewards":
            lines += _reward_sections(field)
            continue
        (section,) = sections
        listed = "[]" if typing.get_origin(field.annotation) in (list, tuple) else ""
        lines += ["", f"## {field.name}{listed}", "", _summary(section), "", *_table(section_fields(section))]
        for inner in section_fields(section):
            for below in sections_in(inner.annotation):
                if field.name == "eval":
                    continue  # the entries of eval.datasets are those of datasets
                lines += ["", f"### {field.name}{listed}.{inner.name}", "", _summary(below), ""]
                lines += _table(section_fields(below))
    return "\n".join([*lines, *_preset_table()]) + "\n"


def _reward_sections(field: SettingField) -> list[str]:
    common = {each.name for each in section_fields(reward_class("exact").settings.__mro__[1])}
    lines = ["", "## rewards[]", "", f"{field.description.capitalize()}. Every entry has:", ""]
    lines += _table(each for each in section_fields(reward_class("exact").settings) if each.name in common)
    for name in file_rewards():
        section = reward_class(name).settings
        own = [each for each in section_fields(section) if each.name not in common or _differs(each)]
        lines += ["", f"### {name}", "", _summary(section), *(["", *_table(own)] if own else [])]
    return lines


def _differs(field: SettingField) -> bool:
    """Whether a reward has another default than the others for what all have."""
    usual = {each.name: each.default for each in section_fields(reward_class("exact").settings)}
    return field.name in usual and usual[field.name] != field.default


def _preset_table() -> list[str]:
    lines = [
        "",
        "## Presets",
        "",
        "`algo` lays these under what the file says:",
        "",
        "| algo | settings |",
        "|---|---|",
    ]
    for name, tree in PRESETS.items():
        settings = [f"`{section}.{key}: {value}`" for section, keys in tree.items() for key, value in keys.items()]
        lines.append(f"| {name} | {', '.join(settings)} |")
    return lines


def _table(fields: Iterable[SettingField]) -> list[str]:
    rows = [
        f"| `{field.name}` | {_cell(type_text(field))} | {_cell(default_text(field))} | {field.unit} | "
        f"{_cell(field.description)} |"
        for field in fields
    ]
    return ["| key | type | default | unit | meaning |", "|---|---|---|---|---|", *rows]


def _explained(place: tuple[str, ...], field: SettingField) -> str:
    unit = f" [{field.unit}]" if field.unit else ""
    return f"{_dotted(place)}{unit}\n  {field.description}\n  {type_text(field)}; default: {default_text(field)}"


def type_text(field: SettingField) -> str:
    """The type in words: names to choose from, or a kind of value with its bounds."""
    kind = _type_name(field.annotation)
    if field.choices:
        kind = kind.replace("text", " or ".join((", ".join(field.choices), *_own_code(field))), 1)
    return f"{kind}, {field.bounds}" if field.bounds else kind


def _own_code(field: SettingField) -> list[str]:
    return ["file.py:name"] if "file.py" in field.description else []


def default_text(field: SettingField) -> str:
    """The default as a file would write it."""
    value = field.default
    if value is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(value) or isinstance(value, BaseModel):
        return "see below"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(str, value))}]"
    return "''" if value == "" else str(value).replace("\n", "\\n")


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(str(part).lower() if isinstance(part, bool) else str(part) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(part) for part in parts)
    if origin is typing.Annotated:
        return _type_name(parts[0])
    if origin in (tuple, list):
        inner = [part for part in parts if part is not Ellipsis]
        if len(inner) > 1:
            return f"[{', '.join(_type_name(part) for part in inner)}]"
        return f"list of {_type_name(inner[0])}"
    if origin is dict:
        return "mapping"
    if inspect.isclass(annotation) and dataclasses.is_dataclass(annotation):
        return "section"
    return {bool: "true or false", int: "integer", float: "number", str: "text"}.get(annotation, "any")


def _summary(section: type) -> str:
    """A section's first line, with its details, as one paragraph of Markdown."""
    text = inspect.getdoc(section) or ""
    text = re.split(r"\n\s*(?:Raises|Attributes):", text)[0]
    return " ".join(text.split()).replace("``", "`")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _dotted(place: tuple[str, ...]) -> str:
    return ".".join(place)
