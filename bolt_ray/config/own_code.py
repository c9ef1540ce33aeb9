"""A loss or strategy of the user's own, ``file.py:name``: where its file is, and whether it can be loaded.

The configuration is the last place that knows which directory a relative file is in. The processes that load it, the
learner ranks among them, have other working directories.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.plugins import absolute_reference, is_reference, load_object


def with_absolute_files(config: RunConfig, base_dir: Path) -> RunConfig:
    """The configuration with the files of an own loss and strategy as absolute paths; applied again it changes nothing.

    Args:
        base_dir: where a relative file is looked for, before the working directory.
    """
    places = [str(base_dir.absolute())]
    changed = {
        "loss": replace(config.loss, type=absolute_reference(config.loss.type, places)),
        "curriculum": replace(config.curriculum, strategy=absolute_reference(config.curriculum.strategy, places)),
    }
    return config.model_copy(update=changed)


def check_own_code(config: RunConfig) -> None:
    """Load an own loss and strategy.

    Raises:
        ConfigError: one cannot be found or run; the run would end with it only after everything has been started.
    """
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
