"""The library reasoning-gym behind one door: its tasks by name, with checked options."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from typing import Any, Protocol

from bolt_ray.core.errors import ConfigError, EnvironmentProblem
from bolt_ray.core.settings import nearest_hint

PACKAGE = "reasoning_gym"
NOT_TASKS = {"composite"}
"""A mixture of tasks: what ``datasets`` is for."""
# The library makes problem i of seed s from the number s + i, and some tasks take 32 bits at most: seeds are hashed, or
# neighbors would have nearly all problems in common.
_SEEDS = 2**31


class Task(Protocol):
    """A data set of the library: an endless row of entries {question, answer, metadata}, and their scorer."""

    def __getitem__(self, index: int) -> dict[str, Any]: ...

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float: ...


def library_version() -> str:
    """The version installed.

    Raises:
        EnvironmentProblem: none is.
    """
    require_library()
    return importlib.metadata.version("reasoning-gym")


def require_library(package: str = PACKAGE) -> None:
    """Refuse to go on without the library.

    Raises:
        EnvironmentProblem: it is not installed; says how to.
    """
    if importlib.util.find_spec(package) is None:
        raise EnvironmentProblem(
            "tasks of reasoning_gym need the library reasoning-gym, which is not installed: "
            'pip install "bolt-ray[reasoning-gym]"'
        )


def make_task(name: str, *, seed: int, options: Mapping[str, Any]) -> Task:
    """A task of the library.

    Args:
        name: as the library knows it, ``chain_sum``.
        seed: of the problems; two seeds share problems by chance alone.
        options: fields of the task's configuration.

    Raises:
        EnvironmentProblem: the library is not installed.
        ConfigError: there is no such task or option, or the task refuses a value.
    """
    require_library()
    # Here and not above: the library is an optional extra, and its import takes seconds.
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    place = f"datasets: {PACKAGE}/{name}"
    known = sorted(set(DATASETS) - NOT_TASKS)
    if name not in known:
        raise ConfigError(f"{place}: reasoning-gym has no such task{nearest_hint(name, known) or _all_of(known)}")
    fields = {field.name: field for field in dataclasses.fields(DATASETS[name][1])}
    fields = {key: field for key, field in fields.items() if key not in ("seed", "size")}
    for key in options:
        if key not in fields:
            given = "; it is a setting of the data set, beside options" if key in ("seed", "size") else ""
            raise ConfigError(
                f"{place}: options.{key}: {name} has no such option{given or nearest_hint(key, fields)}; it has "
                + ", ".join(_described(field) for field in fields.values())
            )
    digest = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    try:
        task: Task = reasoning_gym.create_dataset(name, seed=int.from_bytes(digest, "big") % _SEEDS, **options)
    except Exception as error:
        raise ConfigError(
            f"{place}: {name} refuses the options {json.dumps(dict(options))} ({type(error).__name__}: {error})"
        ) from error
    return task


def _all_of(known: list[str]) -> str:
    return f"; it has {', '.join(known)}"


def _described(field: dataclasses.Field[Any]) -> str:
    """An option and its default."""
    if field.default is not dataclasses.MISSING:
        return f"{field.name} ({field.default!r})"
    if field.default_factory is not dataclasses.MISSING:
        return f"{field.name} ({field.default_factory()!r})"
    return field.name
