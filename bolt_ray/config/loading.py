"""From a YAML file and ``key.sub=value`` overrides to a checked ``RunConfig``."""

from __future__ import annotations

import os
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from bolt_ray.config.name_hints import unknown_key
from bolt_ray.config.own_code import with_absolute_files
from bolt_ray.config.presets import PRESETS, Tree, merge
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.secrets import masked
from bolt_ray.core.settings import SettingError, nearest_hint


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read ``path``, lay ``overrides`` over it and a preset under it, and check the result.

    A user's own loss or strategy, ``file.py:name``, is looked for beside ``path``, then in the working directory.

    Raises:
        ConfigError: the file is missing or not YAML, an override is not ``key.sub=value``, a key is unknown
            (the message says what it could be), a value has the wrong type, or settings contradict each other.
    """
    path = Path(path)
    tree = read_yaml(path)
    for override in overrides:
        tree = merge(tree, parse_override(override))
    return with_absolute_files(build_config(tree, where=str(path)), path.parent)


def build_config(tree: Tree, *, where: str = "config") -> RunConfig:
    """Check a plain tree of settings; ``where`` begins every message."""
    if isinstance(tree.get("algo"), dict):
        said = [("algo", f"is one of {', '.join(PRESETS)}, not a section"), *unknown_key(("algo",), tree["algo"])[1:]]
        raise ConfigError("\n".join(f"{where}: {key}: {message}" for key, message in said))
    algo = str(tree.get("algo", "bolt")).lower()
    if algo not in PRESETS:
        raise ConfigError(
            f"{where}: algo: {tree['algo']!r} is unknown; one of {', '.join(PRESETS)}{nearest_hint(algo, PRESETS)}"
        )
    try:
        return RunConfig.model_validate(tree)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValidationError as error:
        raise ConfigError(_explain(error, where)) from None


def read_yaml(path: Path) -> Tree:
    """The mapping a YAML file holds.

    Raises:
        ConfigError: missing, unreadable, not YAML (with line and column), or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(p.name for p in path.parent.glob("*.y*ml")) if path.parent.is_dir() else []
        hint = f"; {path.parent} has {', '.join(near)}" if near else ""
        raise ConfigError(f"{path}: there is no such config file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a UTF-8 text file ({error})") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{place}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: a config is a mapping of sections, not a {type(tree).__name__}")
    return tree


def parse_override(text: str) -> Tree:
    """``train.max_steps=50`` as the tree ``{"train": {"max_steps": 50}}``; the value is read as YAML."""
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"override {text!r}: write it as key.sub=value, for example train.max_steps=50")
    try:
        tree: Any = yaml.safe_load(value) if value else None
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r}: the value is not valid YAML ({error})") from None
    for key in reversed(keys):
        tree = {key: tree}
    return typing.cast(Tree, tree)


def dump_config(config: RunConfig, *, show: Callable[[Tree], Tree] = lambda tree: tree) -> str:
    """The configuration as YAML that ``load_config`` reads back to the same, but for what ``show`` leaves out."""
    return yaml.safe_dump(show(config.model_dump(mode="json")), sort_keys=False, allow_unicode=True)


def _explain(error: ValidationError, where: str) -> str:
    lines = []
    for problem in error.errors():
        place = [str(part) for part in problem["loc"]]
        message = problem["msg"].removeprefix("Value error, ")
        cause = problem.get("ctx", {}).get("error")
        if isinstance(cause, SettingError):
            # Raised by the section's own check, which knows its field but not where the section stands.
            place, message = [*place, cause.key], cause.reason
        elif problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            lines += [f"{where}: {key}: {said}" for key, said in unknown_key(place, problem["input"])]
            continue
        elif problem["type"] == "too_short" and problem["ctx"]["actual_length"] < len(problem["input"]):
            continue  # pydantic counts the entries that were right; what is wrong with the others is said
        elif "input" in problem and problem["type"] not in ("missing", "value_error"):
            given = masked(problem["input"], environ=os.environ)
            message = f"{message[:1].lower()}{message[1:]}, not {given!r}"
        elif problem["type"] == "missing":
            message = "is required and missing"
        key = ".".join(place)
        lines.append(f"{where}: {key}: {message}" if key else f"{where}: {message}")
    return "\n".join(dict.fromkeys(lines))
