"""A training run as a Ray job: its entry point, and the runtime environment it needs."""

from __future__ import annotations

import json
import logging
import os
import re
import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bolt_ray.commands.shared.cluster_token import MODE, has_unused_token
from bolt_ray.commands.shared.inputs import check_inputs
from bolt_ray.config.loading import load_config, parse_override, read_yaml
from bolt_ray.config.own_code import check_own_code
from bolt_ray.core.errors import ConfigError
from bolt_ray.core.secrets import is_secret, masked

log = logging.getLogger(__name__)

EXCLUDES = (".?*", "__pycache__", "*.egg-info", "/runs", "/evaluations", "/wandb", "/build", "/dist")
"""What no run needs. Whatever is hidden goes too: histories, virtual environments, caches, files of credentials."""

OUTPUTS = ("run_dir", "resume", "store_dir", "cache_dir")
"""Settings that name what a run writes, which the cluster does not need beforehand."""

_OWN = re.compile(r":\w+$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What ``ray job submit`` is given.

    Attributes:
        submission_id: the job's name on the cluster; a cluster takes each only once.
        entrypoint: the command, run in the uploaded copy of the working directory.
        excludes: patterns, as in a ``.gitignore``, of what is not uploaded.
        env_vars: for all processes of the job. The dashboard shows them.
        address: of the cluster; None leaves it to Ray: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, else this machine.
        with_token: this machine's token is used, which Ray's own command has to be told.
    """

    submission_id: str
    entrypoint: tuple[str, ...]
    excludes: tuple[str, ...]
    env_vars: Mapping[str, str]
    address: str | None
    with_token: bool

    @property
    def runtime_env(self) -> dict[str, Any]:
        return {"working_dir": ".", "excludes": list(self.excludes), "env_vars": dict(self.env_vars)}

    def command(self) -> str:
        """The shell command that submits the same job."""
        environment = self.runtime_env
        parts = ["ray", "job", "submit"]
        if self.address is not None:
            parts += ["--address", self.address]
        parts += ["--submission-id", self.submission_id, "--working-dir", environment.pop("working_dir")]
        parts += ["--runtime-env-json", json.dumps(environment), "--", *self.entrypoint]
        return (f"{MODE}=token " if self.with_token else "") + shlex.join(parts)


def training_job(
    config: Path,
    overrides: Sequence[str] = (),
    *,
    address: str | None = None,
    submission_id: str | None = None,
    grace_s: int,
    env: Sequence[str] = (),
) -> Job:
    """The job that trains as ``config`` says, checked as far as it can be on this machine.

    Args:
        config: a file in the working directory, which is what the cluster gets.
        grace_s: seconds between ``ray job stop`` and the end by force: for the step under way and its checkpoint.
        env: ``NAME=VALUE`` for all processes of the job.

    Raises:
        UserError: the configuration is not valid, a file it names is missing or would not be uploaded, or something
            that everybody on the cluster can read holds a secret.
    """
    settings = load_config(config, overrides)
    check_inputs(settings, download=False, elsewhere=True)
    check_own_code(settings)
    excludes = (*EXCLUDES, *_own_output(settings.run_dir))
    _check_uploaded(config, overrides, excludes)
    for override in overrides:
        if masked(parse_override(override), environ=os.environ) != parse_override(override):
            raise ConfigError(
                f"{override.partition('=')[0]}: a job's command line can be read in the dashboard; put the secret into "
                "the environment of the nodes, or into the config file"
            )
    return Job(
        submission_id=submission_id or f"{settings.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}",
        # Ray hands it to a shell, which would get the signal of ``ray job stop`` as well and leave the run an orphan.
        entrypoint=("exec", "python", "-m", "bolt_ray.cli", "train", config_in_upload(config), *overrides),
        excludes=excludes,
        env_vars={"RAY_JOB_STOP_WAIT_TIME_S": str(grace_s), **_variables(env)},
        address=address,
        with_token=has_unused_token(os.environ, Path.home()),
    )


def config_in_upload(config: Path) -> str:
    """The path of ``config`` below the working directory.

    Raises:
        ConfigError: it lies elsewhere.
    """
    here, file = Path.cwd().resolve(), config.resolve()
    if not file.is_relative_to(here):
        raise ConfigError(f"{config}: the cluster gets the working directory, {here}, and this file is not in it")
    return str(file.relative_to(here))


def _own_output(run_dir: str | None) -> tuple[str, ...]:
    """The run's own directory where it lies in the working directory: runs before may be in it."""
    if run_dir is None or Path(run_dir).is_absolute() or ".." in Path(run_dir).parts:
        return ()
    return (f"/{Path(run_dir)}",)


def _variables(env: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in env:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise ConfigError(f"--env {text!r}: write it as NAME=VALUE, for example HF_HOME=/shared/huggingface")
        if is_secret(name) or masked(value, environ=os.environ) != value:
            raise ConfigError(
                f"--env {name}: it looks like a secret, and a job's environment can be read in the dashboard; put it "
                "into the environment of the nodes"
            )
        found[name] = value
    return found


def _check_uploaded(config: Path, overrides: Sequence[str], excludes: Sequence[str]) -> None:
    """Refuse files that are here, named by the configuration, and would be missing on the cluster.

    Raises:
        ConfigError: naming the file.
    """
    sent = uploaded(Path.cwd(), excludes)
    named: list[tuple[str, str, Path]] = [("the config file", str(config), config.resolve())]
    for tree, base in [(read_yaml(config), config.parent), *((parse_override(text), Path()) for text in overrides)]:
        for key, value in _texts(tree):
            relative = Path(_OWN.sub("", value)) if ".py:" in value else Path(value)
            # ``code`` is a reward, ``code/`` and ``code.csv`` are files.
            if not relative.is_absolute() and ("/" in value or "." in value):
                named += [(key, value, (place / relative).resolve()) for place in {base, Path()}]
    for key, value, file in named:
        if file.is_relative_to(Path.cwd().resolve()) and file.exists() and file not in sent:
            raise ConfigError(
                f"{key}: {value} would not be uploaded: a .gitignore, a .rayignore or {', '.join(excludes)} leaves it "
                "out; move it, or put it on storage that all nodes share and name it by its whole path"
            )


def uploaded(directory: Path, excludes: Sequence[str]) -> set[Path]:
    """The files and directories that Ray packs for the cluster."""
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    found: set[Path] = set()
    directory = directory.resolve()
    left_out = _get_excludes(directory, list(excludes))
    _dir_travel(directory, [left_out], lambda path: found.add(path), include_gitignore=True, logger=log)
    return found


def _texts(tree: Any, key: str = "") -> list[tuple[str, str]]:
    """(dotted key, value) of all texts but those that name outputs."""
    if isinstance(tree, Mapping):
        below = [(f"{key}.{name}" if key else str(name), value) for name, value in tree.items() if name not in OUTPUTS]
    elif isinstance(tree, list):
        below = [(f"{key}[{number}]", value) for number, value in enumerate(tree)]
    else:
        return [(key, tree)] if isinstance(tree, str) else []
    return [pair for name, value in below for pair in _texts(value, name)]
