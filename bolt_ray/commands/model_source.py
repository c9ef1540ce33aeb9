"""From what a user names - a run, a checkpoint, a model, an adapter - to the directories behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from bolt_ray.commands.shared.made_datasets import EMBEDDED
from bolt_ray.core.errors import ModelError
from bolt_ray.training.run_directory import RunDirectory, list_checkpoints


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A policy on disk.

    Attributes:
        label: a short name for tables and files.
        model: a Hugging Face model directory (or name); of an adapter: its base.
        adapter: the LoRA adapter's directory; None for a plain model.
        lora_rank: the adapter's rank, 0 without one.
    """

    label: str
    model: str
    adapter: Path | None = None
    lora_rank: int = 0


def find_model(name: str, *, base: str | None = None) -> ModelSource:
    """The policy behind ``name``.

    A run directory stands for its ``final/`` model or, while there is none, the model of its newest checkpoint; a
    checkpoint for its ``model/``. What is no directory is a model name, left for the hub.

    Args:
        base: base model of an adapter, in place of the one the adapter names.

    Raises:
        ModelError: a directory without a model, an adapter whose base is not there, or a base for a plain model.
    """
    path = Path(name).expanduser().absolute()
    if name == EMBEDDED or not path.is_dir():
        if path.is_file() or name.startswith((".", "/", "~")):
            raise ModelError(f"there is no model directory {path}")
        return _plain(name, label=Path(name).name, base=base)
    directory = _policy_directory(path)
    label = path.name
    if path.parent.name == "checkpoints":
        label = f"{path.parent.parent.name}-{path.name}"
    if (directory / "adapter_config.json").is_file():
        return _adapter(directory, label=label, base=base)
    if (directory / "config.json").is_file():
        return _plain(str(directory), label=label, base=base)
    raise ModelError(f"{directory}: neither config.json of a model nor adapter_config.json of a LoRA adapter is there")


def _policy_directory(path: Path) -> Path:
    """``path`` itself, or the model inside a run or a checkpoint."""
    run = RunDirectory(path)
    if run.final_model.is_dir():
        return run.final_model
    checkpoints = list_checkpoints(run)
    if checkpoints:
        return checkpoints[-1] / "model"
    if run.config.is_file() and not (path / "config.json").is_file():
        raise ModelError(f"{path}: this run has neither a final model nor a checkpoint yet")
    return path / "model" if (path / "manifest.json").is_file() and (path / "model").is_dir() else path


def _plain(model: str, *, label: str, base: str | None) -> ModelSource:
    if base is not None:
        raise ModelError(f"{model} is a plain model, not a LoRA adapter; it has no base to name")
    return ModelSource(label=label, model=model)


def _adapter(directory: Path, *, label: str, base: str | None) -> ModelSource:
    file = directory / "adapter_config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        rank = int(settings["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file}: not the config of a LoRA adapter ({error!r})") from None
    model = base or str(settings.get("base_model_name_or_path") or "")
    # A relative name would be looked for in another directory each time.
    found = Path(model).expanduser().absolute()
    if not model or not (found / "config.json").is_file():
        raise ModelError(
            f"{directory}: its base model {model or '(none named)'} is not a model directory here; merge the adapter "
            f"into a copy of the base: bolt-ray export {directory} OUTPUT --base MODEL"
        )
    return ModelSource(label=label, model=str(found), adapter=directory, lora_rank=rank)
