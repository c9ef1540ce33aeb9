"""What a setting changes: a value for it, and ways to look at the parts that must come out different.

A table of `Effect` has one line per setting. Each line sets that one setting, builds the parts a command would build,
and looks at them where the number takes effect; every look has to differ from the look without the setting.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bolt_ray.config.loading import build_config
from bolt_ray.config.presets import Tree, merge
from bolt_ray.config.resolve import resolve
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.settings import Settings
from bolt_ray.training.telemetry.state import StateWriter

SMALL: Tree = {
    "datasets": [{"name": "rows.jsonl"}],
    "rewards": [{"type": "exact"}],
    "model": {"name_or_path": "model"},
    "data": {"store_dir": "stores"},
    "sampling": {"max_new_tokens": 16},
    "rollout": {"rollouts_per_step": 4},
    "train": {"max_steps": 4},
}
"""A run of four steps of four completions; its files are those of a `Workplace`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workplace:
    """Where a look may write, and its working directory; ``model`` is a tiny model with its tokenizer."""

    directory: Path
    model: Path


Look = Callable[[RunConfig, Workplace], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One setting.

    Attributes:
        place: as ``walk`` gives it, joined by dots.
        value: not its default.
        looks: each of them must differ.
        beside: other settings, with dots, beside which it means something.
    """

    place: str
    value: Any
    looks: tuple[Look, ...]
    beside: Mapping[str, Any]


def effect(place: str, value: Any, *looks: Look, **beside: Any) -> Effect:
    """``effect("kl.threshold", 0.5, trained, kl__coef=0.1)``; two underscores stand for a dot."""
    assert looks, place
    return Effect(
        place=place,
        value=value,
        looks=looks,
        beside={name.replace("__", "."): value for name, value in beside.items()},
    )


def config_of(settings: Mapping[str, Any], *, base: Tree = SMALL) -> RunConfig:
    """The resolved configuration with some settings by their places; ``datasets[].x`` is that of the first one."""
    tree = base
    for place, value in settings.items():
        tree = merge(tree, _tree(tree, place.split("."), value))
    config = build_config(tree)
    return resolve(config, use_gpu=config.cluster.use_gpu == "yes")


def _tree(under: Any, keys: Sequence[str], value: Any) -> Tree:
    if not keys:
        return value  # type: ignore[no-any-return]
    key, below = keys[0].removesuffix("[]"), under.get(keys[0].removesuffix("[]"), {})
    if not keys[0].endswith("[]"):
        return {key: _tree(below, keys[1:], value)}
    first, *others = below or [{}]
    return {key: [merge(first, _tree(first, keys[1:], value)), *others]}


def plain(value: Any) -> Any:
    """Anything a look returns, as plain values that compare by what they hold."""
    if isinstance(value, torch.Tensor):
        return value.detach().double().tolist()
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return [type(value).__name__, fields]
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    if isinstance(value, int | float | str | bool | None):
        return value
    # The place of an object in memory would differ from look to look.
    text = str(value)
    return type(value).__name__ if " at 0x" in text else text


def state_of(part: Any) -> Any:
    """What a part has made of its settings: its attributes in depth, without the records it was given."""
    if isinstance(part, Settings):
        return type(part).__name__
    if isinstance(part, re.Pattern):
        return [part.pattern, part.flags]
    if isinstance(part, partial):
        return state_of(part.keywords)
    if isinstance(part, Mapping):
        return {str(key): state_of(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [state_of(one) for one in part]
    if part is None or isinstance(part, int | float | str | bool):
        return part
    if isinstance(part, StateWriter):  # holds the time, and what it is told of this process
        return type(part).__name__
    if isinstance(part, ThreadPoolExecutor):
        return part._max_workers
    if type(part).__module__.startswith("bolt_ray."):
        fields = dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()
        values = {field.name: getattr(part, field.name) for field in fields} or vars(part)
        return {name: state_of(value) for name, value in values.items()}
    return type(part).__name__
