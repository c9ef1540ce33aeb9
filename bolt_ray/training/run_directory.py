"""The run directory: its files, and finding or making one.

<run_dir>/config.yaml       the resolved configuration
          metrics.jsonl     one record per step and evaluation; metrics.csv the same as a table
          run.log           the log
          state.json        what the run is doing now, or how it ended
          samples/          completions to read: step-000120.jsonl, eval-000050.jsonl
          trace.json        what took how long, newest spans; trace-older.json those before
          profile/          what a profiler recorded of some steps
          checkpoints/step-000100/   what resume needs, with the model in Hugging Face format
          draws/            the prompts drawn for each refresh window
          baseline/         write-ahead logs of the baseline shards
          warm_start.json   scores of the untrained model, where baseline.warm_start is auto
          wandb/, tensorboard/   what logging.wandb and logging.tensorboard write
          final/            the trained model
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from bolt_ray.core.errors import CheckpointError

STEP_PREFIX = "step-"


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
        return self.root / "checkpoints"

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
    def ray_train(self) -> Path:
        return self.root / "ray_train"


def checkpoint_name(step: int) -> str:
    return f"{STEP_PREFIX}{step:06d}"


def list_checkpoints(run: RunDirectory) -> list[Path]:
    """Finished checkpoints, oldest first; unfinished ones have another name."""
    if not run.checkpoints.is_dir():
        return []
    return sorted(path for path in run.checkpoints.iterdir() if path.name.startswith(STEP_PREFIX) and path.is_dir())


def new_run_directory(run_dir: str | None, *, name: str) -> RunDirectory:
    """Create a run directory, ``runs/<name>-<time>`` unless one is named.

    Raises:
        CheckpointError: it cannot be written, or already holds a run.
    """
    root = Path(run_dir) if run_dir else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    run = RunDirectory(root.absolute())
    if run.config.exists() or list_checkpoints(run):
        raise CheckpointError(
            f"{root}: this directory already holds a run; name another run_dir, or continue it: resume=auto"
        )
    try:
        run.root.mkdir(parents=True, exist_ok=True)
        _check_writable(run.root)
    except OSError as error:
        raise CheckpointError(
            f"{root}: the run directory cannot be written ({error.strerror}); name another run_dir"
        ) from None
    return run


def find_run_to_resume(resume: str, *, run_dir: str | None, name: str) -> tuple[RunDirectory, Path]:
    """The run directory and its newest checkpoint.

    ``auto`` looks in ``run_dir``, or in the newest ``runs/<name>-*`` that has a checkpoint; anything else is the
    directory of a run or of one checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    if resume == "auto":
        candidates = [Path(run_dir)] if run_dir else sorted(Path("runs").glob(f"{name}-*"), reverse=True)
        where = run_dir or f"runs/{name}-*"
    else:
        candidates, where = [Path(resume)], resume
        if candidates[0].name.startswith(STEP_PREFIX) and candidates[0].is_dir():
            return RunDirectory(candidates[0].absolute().parent.parent), candidates[0].absolute()
    for root in candidates:
        run = RunDirectory(root.absolute())
        found = list_checkpoints(run)
        if found:
            if not os.access(run.root, os.W_OK):
                raise CheckpointError(f"{root}: the run directory cannot be written")
            return run, found[-1]
    raise CheckpointError(
        f"resume={resume}: no checkpoint under {where}; start without resume, or name the run's directory"
    )


def set_aside_later(run: RunDirectory, checkpoint: Path) -> list[Path]:
    """Rename the checkpoints after the one a run continues from: they belong to steps that will be trained again.

    Returns:
        their new paths, ``set-aside-…`` in the same directory; they are neither read nor deleted.
    """
    moved = []
    for later in list_checkpoints(run):
        if later.name > checkpoint.name:
            target = run.checkpoints / f"set-aside-{later.name}-{time.strftime('%Y%m%d-%H%M%S')}"
            later.rename(target)
            moved.append(target)
    return moved


def _check_writable(root: Path) -> None:
    test_file = root / ".write-test"
    test_file.write_bytes(b"")
    test_file.unlink()
