"""The run directory: its files, and finding or making one.

<run_dir>/config.yaml       the resolved configuration
          metrics.jsonl     one record per step and evaluation; metrics.csv the same as a table
          run.log           the log
          state.json        what the run is doing now, or how it ended
          samples/          completions to read: step-000120.jsonl, eval-000050.jsonl
          trace.json        what took how long, newest spans; trace-older.json those before
          profile/          what a profiler recorded of some steps
          checkpoints/step-000100/   what resume needs, with the model in Hugging Face format
          draws/            the prompts drawn for each refresh window; those a checkpoint needs are in it, too
          driver/           who trains here: see `bolt_ray.training.run_lock`
          baseline/         write-ahead logs of the baseline shards
          warm_start.json   scores of the untrained model, where baseline.warm_start is auto
          wandb/, tensorboard/   what logging.wandb and logging.tensorboard write
          final/            the trained model
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.files import fsync_path

STEP_PREFIX = "step-"
CHECKPOINTS = "checkpoints"
SET_ASIDE = "set-aside-"

RUNS_VARIABLE = "BOLT_RAY_RUNS"
JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Ray sets it for the command of ``ray job submit``."""

PACKAGES = ("_ray_pkg_", "working_dir_files")
"""What the directories begin with into which Ray unpacks a job's working directory, on every node its own copy."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths inside one run directory."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def metrics_jsonl(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def metrics_csv(self) -> Path:
        return self.root / "metrics.csv"

    @property
    def log(self) -> Path:
        return self.root / "run.log"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def samples(self) -> Path:
        return self.root / "samples"

    @property
    def trace(self) -> Path:
        return self.root / "trace.json"

    @property
    def older_trace(self) -> Path:
        return self.root / "trace-older.json"

    @property
    def profile(self) -> Path:
        return self.root / "profile"

    @property
    def checkpoints(self) -> Path:
        return self.root / CHECKPOINTS

    @property
    def draws(self) -> Path:
        return self.root / "draws"

    @property
    def baseline(self) -> Path:
        return self.root / "baseline"

    @property
    def warm_start(self) -> Path:
        return self.root / "warm_start.json"

    @property
    def final_model(self) -> Path:
        return self.root / "final"

    @property
    def drivers(self) -> Path:
        return self.root / "driver"

    @property
    def ray_train(self) -> Path:
        return self.root / "ray_train"


def checkpoint_name(step: int) -> str:
    return f"{STEP_PREFIX}{step:06d}"


def list_checkpoints(run: RunDirectory) -> list[Path]:
    """Finished checkpoints, oldest first; unfinished ones have another name."""
    if not run.checkpoints.is_dir():
        return []
    return sorted(path for path in run.checkpoints.iterdir() if path.name.startswith(STEP_PREFIX) and path.is_dir())


def run_places(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Directories of runs; new ones that are not told where go into the first.

    That is ``runs/`` of the working directory. A job of ``ray job submit`` has a copy of one, which goes with its node;
    its runs go where ``BOLT_RAY_RUNS`` says, else into ``~/bolt-ray-runs``.
    """
    told = environ.get(RUNS_VARIABLE)
    shared = Path(told).expanduser() if told else Path.home() / "bolt-ray-runs"
    return [shared] if _in_job(environ) else [Path("runs"), shared]


def place_of_run(path: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The absolute path of a run directory as a user names it: a relative one is below the working directory, or within
    a job below the first of `run_places`.

    Raises:
        CheckpointError: it is in a job's unpacked working directory.
    """
    place = Path(path).expanduser()
    if _in_job(environ) and not place.is_absolute():
        place = run_places(environ)[0] / place
    place = place.absolute()
    if _in_package(place):
        raise CheckpointError(
            f"{place}: Ray's copy of the job's working directory, which no other node sees and which goes with the "
            f"job; name a run_dir on shared storage, or the directory of all runs in {RUNS_VARIABLE}"
        )
    return place


def new_run_directory(run_dir: str | None, *, name: str) -> RunDirectory:
    """Create a run directory: the one that is named, else ``<name>-<time>`` where `run_places` says.

    Raises:
        CheckpointError: it cannot be written.
    """
    if run_dir is None:
        named = place_of_run(str(run_places()[0].absolute() / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"))
    else:
        named = place_of_run(run_dir)
    root = named
    try:
        if run_dir is None:
            # Another run of the name may begin in the same second.
            number = 1
            while root.exists():
                number += 1
                root = named.with_name(f"{named.name}-{number}")
        root.mkdir(parents=True, exist_ok=run_dir is not None)
        _check_writable(root)
    except OSError as error:
        raise CheckpointError(
            f"{root}: the run directory cannot be written ({error.strerror}); name another run_dir"
        ) from None
    return RunDirectory(root)


def find_run_to_resume(resume: str, *, run_dir: str | None, name: str) -> tuple[RunDirectory | None, Path | None]:
    """The run to go on with, and the checkpoint if one is named; no run for a checkpoint that was copied out of one.

    ``auto`` is ``run_dir``, or the newest run that was given a name of its own from ``name`` and has a checkpoint;
    anything else is the directory of a run or of one checkpoint.

    Raises:
        CheckpointError: there is none, or it cannot be written.
    """
    checkpoint = None
    if resume != "auto":
        where = root = place_of_run(resume)
        if root.name.startswith(STEP_PREFIX) and root.is_dir():
            if root.parent.name != CHECKPOINTS:
                return None, root
            root, checkpoint = root.parent.parent, root
    elif run_dir is not None:
        where = root = place_of_run(run_dir)
    else:
        place = run_places()[0].absolute()
        where = place / f"{name}-<time>"
        # The whole name: "gsm8k-lora-20260101-000000" is no run of the name "gsm8k".
        own = re.compile(rf"{re.escape(name)}-(\d{{8}}-\d{{6}})(?:-(\d+))?")
        found = [(match, path) for path in _subdirectories(place) if (match := own.fullmatch(path.name))]
        found.sort(key=lambda each: (each[0][1], int(each[0][2] or 1)), reverse=True)
        root = next((path for _, path in found if list_checkpoints(RunDirectory(path))), where)
    run = RunDirectory(root)
    if checkpoint is None and not list_checkpoints(run):
        anew = "; resume=if_any starts it anew in the same directory" if run.config.exists() else ""
        raise CheckpointError(
            f"resume={resume}: no checkpoint under {where}; start without resume, or name the run's directory{anew}"
        )
    if not os.access(run.root, os.W_OK):
        raise CheckpointError(f"{run.root}: the run directory cannot be written")
    return run, checkpoint


def make_final_model(run: RunDirectory, *, step: int, resumed_from: Path | None) -> None:
    """Copy the model of the last checkpoint to ``final/``, which then holds all of it or what it held before.

    A run that was killed between the two has no other chance than its resume, which finds nothing to train.

    Args:
        step: finished steps.
        resumed_from: the checkpoint that the run went on from; it may be that of the last step.
    """
    last = run.checkpoints / checkpoint_name(step)
    if not last.is_dir() and resumed_from is not None:
        last = resumed_from  # copied from another place
    aside = run.root / ".final"
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(last / "model", aside)
    for path in [*aside.rglob("*"), aside]:
        fsync_path(path)
    shutil.rmtree(run.final_model, ignore_errors=True)
    aside.rename(run.final_model)
    fsync_path(run.root)


def set_aside_later(run: RunDirectory, checkpoint: Path) -> list[Path]:
    """Rename the checkpoints after the one a run continues from: they belong to steps that will be trained again.

    Returns:
        their new paths, ``set-aside-…`` in the same directory; they are not read, and are deleted when their steps
        have been trained again.
    """
    return [set_aside(later) for later in list_checkpoints(run) if later.name > checkpoint.name]


def set_aside(checkpoint: Path) -> Path:
    """Rename a checkpoint so that none takes it for one; its new path."""
    target = checkpoint.with_name(f"{SET_ASIDE}{checkpoint.name}-{time.strftime('%Y%m%d-%H%M%S')}")
    checkpoint.rename(target)
    return target


def _check_writable(root: Path) -> None:
    test_file = root / ".write-test"
    test_file.write_bytes(b"")
    test_file.unlink()


def _subdirectories(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir()] if place.is_dir() else []


def _in_job(environ: Mapping[str, str]) -> bool:
    return JOB_VARIABLE in environ or _in_package(Path.cwd())


def _in_package(path: Path) -> bool:
    return any(part.startswith(PACKAGES) for part in path.parts)
