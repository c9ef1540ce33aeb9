"""The run directory that a training opens: a new one, or one to go on with, and what may differ from it then."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from bolt_ray.commands.shared.differences import MISSING, differences
from bolt_ray.commands.shared.inputs import is_hub_model
from bolt_ray.config.loading import dump_config, read_yaml
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.secrets import masked
from bolt_ray.training.checkpoint_storage import CheckpointStorage, is_storage_url, split_checkpoint_url
from bolt_ray.training.checkpoints import UsableCheckpoint, newest_usable, read_checkpoint
from bolt_ray.training.run_directory import (
    RunDirectory,
    find_run_to_resume,
    list_checkpoints,
    new_run_directory,
)
from bolt_ray.training.run_lock import RunLock

SETTLED = (
    r"seed|data\.heldout_(fraction|size)|rollout\.(rollouts_per_step|group_size)"
    r"|curriculum\.(update_freq|window_steps)|model\.(use_peft|lora_\w+)"
)
"""Settings that the saved state was made with: draws and completions follow the seed, the windows' draws have so many
prompts of so many completions, a prompt that was held out would be trained on, or the reverse, and the weights are
those of that adapter."""

ON_PURPOSE = {
    "model": r"model\.(name_or_path|revision|chat_template.*|prefill)",
    "rewards": r"rewards\[\d+\]\.(?!(timeout_s|memory_mb|concurrency|api_key_env|url|\w*retries)$).*"
    r"|baseline\.reward_range",
}
"""Settings that ``resume_changes`` allows to change: the weights then go on from another place or text, the baseline's
values were learned from other rewards."""

AT_THE_START = r"baseline\.warm_start.*|run_dir|resume.*|name"
"""Settings that a resumed run does not read."""

_OWN_FILE = re.compile(r"/\S*/([^/\s]+\.py:\w+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedRun:
    """A run directory that is this process's.

    Attributes:
        checkpoint: what to go on from; None: a new run.
        state: of the checkpoint.
        saved: the settings it was made with; {} where it does not say.
        storage: where ``checkpoint.storage`` has them uploaded.
    """

    run: RunDirectory
    lock: RunLock
    checkpoint: Path | None
    state: dict[str, Any] | None
    saved: dict[str, Any]
    storage: CheckpointStorage | None = None


@contextmanager
def open_run(config: RunConfig, *, say: Callable[[str], None]) -> Iterator[OpenedRun]:
    """The run directory as ``resume`` and ``run_dir`` say, locked, with the checkpoint to go on from.

    Raises:
        CheckpointError: it cannot be used: another process trains in it, it holds a run that is not to be continued, it
            has no checkpoint or none that can be read; or ``checkpoint.storage`` cannot be used.
        StorageError: a checkpoint cannot be fetched.
    """
    storage = None
    if config.checkpoint.storage is not None:
        storage = CheckpointStorage(config.checkpoint.storage)
        storage.check()
    run, source, name = _find_run(config, storage)
    with RunLock(run, say=say) as lock:
        if config.resume is None:
            _check_new(run, storage)
        found = _checkpoint(run, source, name, say=say)
        if found is None and config.resume not in (None, "if_any"):
            raise CheckpointError(f"resume={config.resume}: there is no checkpoint; start without resume")
        saved = None if found is None else found.path / "config.yaml"
        yield OpenedRun(
            run=run,
            lock=lock,
            checkpoint=None if found is None else found.path,
            state=None if found is None else found.state,
            saved=read_yaml(saved) if saved is not None and saved.exists() else {},
            storage=storage,
        )


def _find_run(
    config: RunConfig, storage: CheckpointStorage | None
) -> tuple[RunDirectory, CheckpointStorage | None, str | Path | None]:
    """The run directory, the storage its checkpoints may be fetched from, and the checkpoint that ``resume`` names."""
    resume, named = config.resume, None
    found: RunDirectory | None = None
    if resume is not None and is_storage_url(resume):
        url, name = split_checkpoint_url(resume)
        return new_run_directory(config.run_dir, name=config.name), CheckpointStorage(url), name
    if resume not in (None, "if_any"):
        try:
            found, named = find_run_to_resume(resume, run_dir=config.run_dir, name=config.name)
        except CheckpointError:
            if resume != "auto" or storage is None or not storage.names():
                raise
    return found or new_run_directory(config.run_dir, name=config.name), storage, named


def _check_new(run: RunDirectory, storage: CheckpointStorage | None) -> None:
    if run.config.exists() or list_checkpoints(run):
        raise CheckpointError(
            f"{run.root}: this directory already holds a run; name another run_dir, or continue it: resume=auto, "
            "or resume=if_any where it may have no checkpoint yet"
        )
    if storage is not None and storage.names():
        raise CheckpointError(
            f"checkpoint.storage {storage.url} already holds checkpoints of a run; name another place, or continue it: "
            "resume=auto"
        )


def _checkpoint(
    run: RunDirectory, source: CheckpointStorage | None, named: str | Path | None, *, say: Callable[[str], None]
) -> UsableCheckpoint | None:
    if isinstance(named, Path):
        return UsableCheckpoint(named, read_checkpoint(named), [])
    if named is not None and source is not None:
        path = run.checkpoints / named
        if not path.exists():
            say(f"Fetching {source.url}/{named}")
            source.download(named, run)
        return UsableCheckpoint(path, read_checkpoint(path), [])
    found = newest_usable(run, storage=source)
    for place, why in () if found is None else found.refused:
        assert found is not None
        say(f"Warning: checkpoint {place} cannot be used, going on from {found.path.name}: {why}")
    return found


def write_config(path: Path, config: RunConfig) -> None:
    """``config.yaml``: what the run was resolved to, without the secrets in it."""
    path.write_text(_text_of(config), encoding="utf-8")


def with_saved_revision(config: RunConfig, saved: Mapping[str, Any]) -> RunConfig:
    """The configuration with the model's revision that the checkpoint was made with, unless it names another."""
    model = saved.get("model", {})
    if config.model.revision is not None or model.get("name_or_path") != config.model.name_or_path:
        return config
    return config.model_copy(update={"model": replace(config.model, revision=model.get("revision"))})


def with_commit(config: RunConfig, model_path: Path) -> RunConfig:
    """The configuration with the commit of the hub's model that is used: the hub's cache keeps each in a directory of
    its name."""
    if not is_hub_model(config.model.name_or_path) or model_path.parent.name != "snapshots":
        return config
    return config.model_copy(update={"model": replace(config.model, revision=model_path.name)})


def changed_settings(opened: OpenedRun, config: RunConfig) -> list[str]:
    """What differs from the settings of the checkpoint, a line each; nothing for a new run.

    A setting that one of the two does not know, and one that only a run's start reads, is left out.

    Raises:
        CheckpointError: settings differ that must not: never, or only where ``resume_changes`` says so.
    """
    if opened.checkpoint is None:
        return []
    trees = [opened.saved, yaml.safe_load(_text_of(config))]
    found = {
        key: f"{key} {old} → {new}"
        for key, (old, new) in differences(trees)
        if _OWN_FILE.sub(r"\1", old) != _OWN_FILE.sub(r"\1", new)
        and not re.fullmatch(AT_THE_START, key)
        and (MISSING not in (old, new) or (opened.saved and key.startswith("rewards[")))
    }
    settled = [line for key, line in found.items() if re.fullmatch(SETTLED, key)]
    if settled:
        raise CheckpointError(
            f"{opened.checkpoint} was made with other settings, which cannot change within a run: "
            f"{'; '.join(settled)}. Set them as they were, or start a new run, from its model if you like"
        )
    on_purpose = {
        part: [line for key, line in found.items() if re.fullmatch(keys, key)] for part, keys in ON_PURPOSE.items()
    }
    asked = [part for part, lines in on_purpose.items() if lines and part not in config.resume_changes]
    if asked:
        lines = [line for part in asked for line in on_purpose[part]]
        raise CheckpointError(
            f"{opened.checkpoint} was made with other settings: {'; '.join(lines)}. Set them as they were or, if that "
            f"is on purpose, say resume_changes=[{', '.join([*config.resume_changes, *asked])}]"
        )
    return [f"Changed since {opened.checkpoint.name}: {line}" for line in found.values()]


def _text_of(config: RunConfig) -> str:
    return dump_config(config, show=partial(masked, environ=os.environ))
