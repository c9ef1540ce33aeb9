"""``bolt-ray pretrain``: the model that a configuration names, taught now - the embedded one, or one of its rows."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bolt_ray.commands.pretrain.embedded import ensure_embedded_model
from bolt_ray.commands.pretrain.rows import teach_from_datasets
from bolt_ray.commands.shared.inputs import is_hub_model
from bolt_ray.commands.shared.made_datasets import EMBEDDED
from bolt_ray.commands.shared.say import say
from bolt_ray.config.loading import build_config, load_config
from bolt_ray.config.presets import merge
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError

DEFAULT_CONFIG = {"datasets": [{"name": "arithmetic"}], "rewards": [{"type": "arithmetic"}]}
HELD_OUT = 0.05
"""Share of the rows of ``--data`` that the accuracy is measured on."""


def run_pretraining(
    config_file: Path | None,
    overrides: Sequence[str],
    *,
    data: dict[str, Any] | None,
    pretrain: dict[str, Any],
    output: Path | None,
    console: Console,
) -> None:
    """``bolt-ray pretrain``.

    Args:
        data: the one dataset to teach, in place of a config; None: the config's.
        pretrain: settings of ``pretrain`` given as options of the command.

    Raises:
        UserError: the config or a dataset is not usable, or ``output`` is there already.
    """
    config = _config(config_file, overrides, data=data)
    if pretrain and data is None and config.model.name_or_path == EMBEDDED:
        raise ConfigError(
            f"{', '.join(pretrain)}: of a model taught from rows; the embedded one has settings of its own, "
            "such as arithmetic.pretrain_steps"
        )
    if pretrain:
        config = build_config(merge(config.model_dump(mode="json"), {"pretrain": pretrain}))
    if output is not None and output.exists():
        raise ConfigError(f"--output {output} is there already; name a new directory")
    tell = partial(say, console)
    if data is None and config.model.name_or_path == EMBEDDED:
        path = ensure_embedded_model(config.arithmetic, say=tell, show_progress=True)
        if output is not None:
            shutil.copytree(path, output)
            tell(f"Copied to {output}")
        return
    teach_from_datasets(config, (output or _named_model(config)).absolute(), say=tell, show_progress=True)


def _config(config_file: Path | None, overrides: Sequence[str], *, data: dict[str, Any] | None) -> RunConfig:
    if data is None:
        return build_config(dict(DEFAULT_CONFIG)) if config_file is None else load_config(config_file, overrides)
    if config_file is not None:
        raise ConfigError(f"give {config_file}, whose datasets are taught, or --data, not both")
    return build_config(
        {"datasets": [data], "rewards": ["exact"], "data": {"heldout_fraction": HELD_OUT}}, where="--data"
    )


def _named_model(config: RunConfig) -> Path:
    """The directory the config names as its model, which is not there yet.

    Raises:
        ConfigError: it is there, or a name of the Hub.
    """
    name = config.model.name_or_path
    path = Path(name).expanduser()
    if path.exists() or is_hub_model(name):
        raise ConfigError(
            f"model.name_or_path {name} is "
            + ("there already" if path.exists() else "a name of the Hugging Face hub")
            + "; say with --output where the model is to be written"
        )
    return path
