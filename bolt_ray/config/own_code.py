"""A user's own loss, strategy or reward, ``file.py:name``: where its file is, and whether it can be loaded.

The configuration is the last place that knows which directory a relative file, a chat template's too, is in. The
processes that load it, the learner ranks among them, have other working directories.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.plugins import absolute_file, absolute_reference, find_file, is_reference, load_object
from bolt_ray.rewards.function import FunctionSettings


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
    """The configuration with the files of own code as absolute paths and those of rewards known to be there.

    Raises:
        ConfigError: a reward's file is not there.
    """
    config = with_absolute_files(config, Path.cwd())
    _check_own_rewards(config)
    return config


def check_own_code(config: RunConfig) -> None:
    """Load an own loss and strategy, and look for the files of own rewards, which only their own processes load.

    Raises:
        ConfigError: one cannot be found or run; the run would end with it only after everything has been started.
    """
    _check_own_rewards(config)
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


def _check_own_rewards(config: RunConfig) -> None:
    for index, reward in enumerate(config.rewards):
        place = reward.function.rpartition(":")[0] if isinstance(reward, FunctionSettings) else ""
        if place.endswith(".py"):
            try:
                find_file(place)
            except ValueError as error:
                raise ConfigError(f"rewards.{index}.type: {error}") from None
