"""No setting is accepted and then ignored."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

import bolt_ray
from bolt_ray.config.schema import RunConfig

BY_NAME = {"algo"}
"""Read from the raw tree, before there is a configuration."""


def settings(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """(path, name) of every setting below a section; rewards are left out, their arguments are checked as a whole."""
    for name, field in model.model_fields.items():
        inner = [kind for kind in (field.annotation, *typing.get_args(field.annotation)) if isinstance(kind, type)]
        sections = [kind for kind in inner if issubclass(kind, BaseModel)]
        for section in sections:
            yield from settings(section, f"{path}{name}.")
        if not sections and name not in BY_NAME:
            yield f"{path}{name}", name


def test_every_setting_is_read_somewhere() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in Path(bolt_ray.__file__).parent.rglob("*.py"))
    read = set(re.findall(r"\.([a-z_]\w*)", source))
    found = dict(settings(RunConfig))
    assert len(found) > 100
    assert {path for path, name in found.items() if name not in read} == set()
