"""Checkpoints: one directory per step, written under another name, fsynced, renamed; no pickle.

step-000100/
  manifest.json     format, step, version, every file with its size and digest
  state.json        step, policy version, prompt-stream position, requests in flight, curriculum
  learner/          weights, optimizer moments, schedule, controllers (safetensors, JSON)
  baseline/         the shards' snapshot
  draws/            of the window that is being drawn from, and of the next
  config.yaml       the settings of the run, resolved and without secrets
  model/            the policy in Hugging Face format
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.files import fsync_path
from bolt_ray.training.run_directory import RunDirectory, checkpoint_name, list_checkpoints

FORMAT = 3
_READ_BYTES = 1 << 22


def write_checkpoint(
    run: RunDirectory, *, step: int, state: dict[str, Any], write_parts: Callable[[Path], None], keep: int
) -> Path:
    """Write the checkpoint of ``step`` and delete all but the newest ``keep``.

    ``write_parts`` gets the directory being written and adds ``learner/``, ``baseline/`` and ``model/`` to it.
    An existing checkpoint of that step is left as it is. Writes the model's size, and reads it once more for the
    digests.
    """
    target = run.checkpoints / checkpoint_name(step)
    if target.exists():
        return target
    aside = run.checkpoints / f".writing-{target.name}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write_parts(aside)
    (aside / "state.json").write_text(json.dumps(state), encoding="utf-8")
    files = {str(path.relative_to(aside)): _describe(path) for path in sorted(aside.rglob("*")) if path.is_file()}
    manifest = {"format": FORMAT, "step": step, "files": files}
    (aside / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _fsync_tree(aside)
    aside.rename(target)
    fsync_path(run.checkpoints)
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return target


class UsableCheckpoint(NamedTuple):
    """What a run continues from.

    Attributes:
        path: the checkpoint.
        state: its ``state.json``.
        refused: newer ones that cannot be used, newest first, and why each.
    """

    path: Path
    state: dict[str, Any]
    refused: list[tuple[Path, str]]


def newest_usable(run: RunDirectory) -> UsableCheckpoint | None:
    """The newest checkpoint of a run whose files are all as they were written; None if the run has no checkpoint.

    Raises:
        CheckpointError: there are some, and each is damaged.
    """
    refused: list[tuple[Path, str]] = []
    for path in reversed(list_checkpoints(run)):
        try:
            return UsableCheckpoint(path, read_checkpoint(path), refused)
        except CheckpointError as error:
            refused.append((path, str(error)))
    if refused:
        reasons = "; ".join(why for _, why in refused)
        raise CheckpointError(f"{run.checkpoints}: no checkpoint there is whole ({reasons})")
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, after checking that all its files are as they were written.

    Raises:
        CheckpointError: a file is missing, shorter or different, or the format is another one.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of bolt-ray, manifest.json cannot be read ({error})") from None
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: checkpoint format {manifest.get('format')}, this version reads {FORMAT}")
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(
                f"{file}: missing from the checkpoint; resume from an older one: resume=<run>/checkpoints/…"
            )
        if _describe(file) != expected:
            raise CheckpointError(f"{file}: changed or truncated since it was written; resume from an older checkpoint")
    state: dict[str, Any] = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return state


def _describe(path: Path) -> dict[str, Any]:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return {"bytes": path.stat().st_size, "xxh3_128": digest.hexdigest()}


def _fsync_tree(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        fsync_path(path)
