"""Checkpoints: one directory per step, written under another name, proven whole, renamed; no pickle.

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
import logging
import shutil
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from bolt_ray.core.digests import FileDigest, describe_os_error, digest_file, storage_errors
from bolt_ray.core.errors import CheckpointError, StorageError
from bolt_ray.core.files import fsync_path
from bolt_ray.training.run_directory import SET_ASIDE, RunDirectory, checkpoint_name, list_checkpoints, set_aside

FORMAT = 3
MANIFEST = "manifest.json"
STATE = "state.json"
_WRITING = ".writing-"
_REMOVING = ".removing-"

log = logging.getLogger(__name__)


def write_checkpoint(
    run: RunDirectory,
    *,
    step: int,
    state: dict[str, Any],
    write_parts: Callable[[Path], Mapping[str, FileDigest]],
    keep: int,
    held: Collection[str] = (),
) -> Path:
    """Write the checkpoint of ``step``, prove it whole, and only then delete all but the newest ``keep``.

    An existing checkpoint of that step is left as it is. Needs room for ``keep`` + 1.

    Args:
        write_parts: gets the directory being written, adds ``learner/``, ``baseline/`` and ``model/`` to it, and gives
            the digests that were made on the way, by path; what it leaves out is read once more.
        held: names of checkpoints that are not to be deleted yet.

    Raises:
        StorageError: it could not be written; nothing of it is left, and those before it are.
    """
    target = run.checkpoints / checkpoint_name(step)
    if target.exists():
        return target
    with unfinished_checkpoint(run, target.name) as aside:
        digests = write_parts(aside)
        (aside / STATE).write_text(json.dumps(state), encoding="utf-8")
        files = {
            str(path.relative_to(aside)): asdict(_proven(path, digests.get(str(path))))
            for path in sorted(aside.rglob("*"))
            if path.is_file()
        }
        missing = [path for path in digests if str(Path(path).relative_to(aside)) not in files]
        if missing:
            raise StorageError(f"{missing[0]}: was written and is not there")
        manifest = {"format": FORMAT, "step": step, "files": files}
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    _remove_older(run, newest=target, keep=keep, held=held)
    return target


@contextmanager
def unfinished_checkpoint(run: RunDirectory, name: str) -> Iterator[Path]:
    """A new directory to fill; at the end of the context it is the checkpoint ``name``, after an error nothing.

    Raises:
        StorageError: a file could not be written.
    """
    _remove_leftovers(run)
    # A name of its own per attempt: ranks may still write what an earlier one gave up.
    aside = run.checkpoints / f"{_WRITING}{name}-{uuid.uuid4().hex[:8]}"
    try:
        with storage_errors(f"checkpoint {name}"):
            aside.mkdir(parents=True)
            yield aside
            _fsync_tree(aside)
            aside.rename(run.checkpoints / name)
            fsync_path(run.checkpoints)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _remove_leftovers(run: RunDirectory) -> None:
    """Remove what killed writers left; there is one driver to a run directory."""
    for prefix in (_WRITING, _REMOVING):
        for path in run.checkpoints.glob(f"{prefix}*"):
            shutil.rmtree(path, ignore_errors=True)


def _remove_older(run: RunDirectory, *, newest: Path, keep: int, held: Collection[str]) -> None:
    """All but the newest ``keep``, and those set aside whose steps were trained again."""
    # "set-aside-step-000090-20260101-000000": as many characters as a step has.
    again = [
        path
        for path in run.checkpoints.glob(f"{SET_ASIDE}*")
        if path.name.removeprefix(SET_ASIDE)[: len(newest.name)] <= newest.name
    ]
    for path in [*list_checkpoints(run)[:-keep], *again]:
        if path.name not in held:
            # Renamed first: a kill half-way must not leave half a checkpoint under its name.
            gone = path.with_name(f"{_REMOVING}{path.name}")
            try:
                path.rename(gone)
                shutil.rmtree(gone)
            except OSError as error:
                log.warning("%s: an old checkpoint cannot be removed: %s", path, describe_os_error(error))


class UsableCheckpoint(NamedTuple):
    """What a run continues from.

    Attributes:
        path: the checkpoint, in the run directory.
        state: its ``state.json``.
        refused: newer ones that cannot be used, newest first: the name of each, and why.
    """

    path: Path
    state: dict[str, Any]
    refused: list[tuple[str, str]]


class OtherPlace(Protocol):
    """Where checkpoints are kept beside the run directory: `CheckpointStorage`."""

    url: str

    def names(self) -> list[str]: ...
    def download(self, name: str, run: RunDirectory) -> Path: ...


def newest_usable(run: RunDirectory, *, storage: OtherPlace | None = None) -> UsableCheckpoint | None:
    """The newest checkpoint of a run whose files are all as they were written; None if the run has no checkpoint.

    Args:
        storage: fetched from where the run directory lacks a checkpoint, or has it damaged (which is set aside then).

    Raises:
        CheckpointError: there are some, and each is damaged.
        StorageError: the storage cannot be read.
    """
    refused: list[tuple[str, str]] = []
    here = {path.name for path in list_checkpoints(run)}
    there = set() if storage is None else set(storage.names())
    for name in sorted(here | there, reverse=True):
        path = run.checkpoints / name
        if name in here:
            try:
                return UsableCheckpoint(path, read_checkpoint(path), refused)
            except CheckpointError as error:
                refused.append((name, str(error)))
        if storage is not None and name in there:
            try:
                if path.exists():
                    set_aside(path)
                return UsableCheckpoint(path, read_checkpoint(storage.download(name, run)), refused)
            except CheckpointError as error:
                refused.append((f"{name} of {storage.url}", str(error)))
    if refused:
        reasons = "; ".join(why for _, why in refused)
        raise CheckpointError(f"{run.checkpoints}: no checkpoint there is whole ({reasons})")
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a checkpoint, after checking that all its files are as they were written.

    Raises:
        CheckpointError: a file is missing, shorter or different, or the format is another one.
    """
    for name, expected in read_manifest(path).items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(
                f"{file}: missing from the checkpoint; resume from an older one: resume=<run>/checkpoints/…"
            )
        # The size first: it costs nothing.
        if file.stat().st_size != expected.bytes or digest_file(file) != expected:
            raise CheckpointError(f"{file}: changed or truncated since it was written; resume from an older checkpoint")
    state: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    return state


def read_manifest(path: Path) -> dict[str, FileDigest]:
    """The files of a checkpoint and what they must be.

    Raises:
        CheckpointError: they cannot be read, or the format is another one.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version = manifest.get("format")
        if version != FORMAT:
            raise CheckpointError(f"{path}: checkpoint format {version}, this version reads {FORMAT}")
        files = {str(name): FileDigest(**expected) for name, expected in manifest["files"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a checkpoint of bolt-ray, {MANIFEST} cannot be read ({error})") from None
    if STATE not in files:
        raise CheckpointError(f"{path}: {MANIFEST} does not name {STATE}; resume from an older checkpoint")
    return files


def _proven(path: Path, written: FileDigest | None) -> FileDigest:
    """The digest of a file; one that was made while it was written is taken if the file has its size."""
    if written is None:
        return digest_file(path)
    if path.stat().st_size != written.bytes:
        raise StorageError(f"{path}: {path.stat().st_size:,} bytes are there, {written.bytes:,} were written")
    return written


def _fsync_tree(root: Path) -> None:
    for path in [*root.rglob("*"), root]:
        fsync_path(path)
