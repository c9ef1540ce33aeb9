"""A user's own loss, strategy or reward, ``file.py:name``: where its file is, and whether it can be loaded.

The configuration is the last place that knows which directory a relative file, a chat template's too, is in. The
processes that load it, the learner ranks among them, have other working directories.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.plugins import (
    absolute_file,
    absolute_reference,
    find_file,
    is_reference,
    load_object,
    plain_name,
)
from bolt_ray.rewards.function import CallableSettings, FunctionSettings, signature_of
from bolt_ray.rewards.function_shapes import shape_of
from bolt_ray.rewards.function_signature import signature_in
from bolt_ray.rewards.process.isolation import RewardProcess
from bolt_ray.rewards.settings import definite_rewards


def with_absolute_files(config: RunConfig, base_dir: Path) -> RunConfig:
    """The configuration with the user's own files as absolute paths; applied again it changes nothing.

    Args:
        base_dir: where a relative file is looked for, before the working directory.
    """
    loss = replace(config.loss, type=absolute_reference(config.loss.type, base_dir))
    template = config.model.chat_template
    model = (
        config.model
        if template is None
        else replace(config.model, chat_template=str(absolute_file(template, base_dir)))
    )
    strategy = absolute_reference(config.curriculum.strategy, base_dir)
    changed = {
        "loss": loss,
        "model": model,
        "curriculum": replace(config.curriculum, strategy=strategy),
        "rewards": tuple(
            replace(reward, function=absolute_reference(reward.function, base_dir))
            if isinstance(reward, FunctionSettings)
            else reward
            for reward in config.rewards
        ),
    }
    return config.model_copy(update=changed)


def with_own_rewards(config: RunConfig) -> RunConfig:
    """The configuration with the files of own code as absolute paths, its own rewards known to have a shape.

    Raises:
        ConfigError: a reward's file is not there, or its function has no shape.
    """
    config = with_absolute_files(config, Path.cwd())
    _own_rewards(config)
    return config


def check_own_code(config: RunConfig) -> list[str]:
    """Load an own loss and strategy, and find the shape of own rewards, which only their own processes load.

    Returns:
        a line for each own reward: what its function was taken for.

    Raises:
        ConfigError: one cannot be found or run; the run would end with it only after everything has been started.
    """
    lines = _own_rewards(config)
    for key, name in (("loss.type", config.loss.type), ("curriculum.strategy", config.curriculum.strategy)):
        if not is_reference(name):
            continue
        try:
            found = load_object(name)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from None
        except Exception as error:
            raise ConfigError(f"{key}: {name} cannot be loaded: {type(error).__name__}: {error}") from error
        if not callable(found):
            raise ConfigError(f"{key}: {name} is of type {type(found).__name__}; it must be callable")
    return lines


def _own_rewards(config: RunConfig) -> list[str]:
    lines = []
    limits = config.scoring
    for index, reward in enumerate(
        definite_rewards(config.rewards, timeout_s=limits.timeout_s, memory_mb=limits.memory_mb, env=limits.env)
    ):
        if not isinstance(reward, FunctionSettings | CallableSettings):
            continue
        name = plain_name(reward.function) if isinstance(reward, FunctionSettings) else reward.default_name
        try:
            shape = _shape(reward, startup_timeout_s=limits.startup_timeout_s)
        except (ValueError, ConfigError) as error:
            raise ConfigError(f"rewards.{index}.type: {name}: {str(error).removeprefix('rewards: ')}") from None
        lines.append(f"reward {name}: {shape}")
    return lines


def _shape(reward: FunctionSettings | CallableSettings, *, startup_timeout_s: float) -> str:
    """What a reward's function is taken for.

    A plain ``def`` in a file is read and not run. Only the process that will run it can tell of anything else (a
    decorated function, one that is imported or made by a call, one of an installed module), so one is started for it.

    Raises:
        ValueError: it is not there, or has no shape.
        ConfigError: it cannot be loaded.
    """
    signature: inspect.Signature | None = None
    if isinstance(reward, CallableSettings):
        signature = signature_of(reward.function)
    else:
        place, _, name = reward.function.rpartition(":")
        if place.endswith(".py"):
            signature = signature_in(find_file(place).read_bytes(), name)
    if signature is not None:
        return str(shape_of(signature, options=reward.options, batched=reward.batched))
    process = RewardProcess(rewards=[reward], startup_timeout_s=startup_timeout_s)
    try:
        process.start()
        return process.shapes[0]
    finally:
        process.close()
