"""``bolt-ray train``: from a configuration to a trained model in a run directory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path

from rich.console import Console

from bolt_ray.actors.settings import OWN_WARM_START
from bolt_ray.commands.precompute_baseline.precompute_baseline import precompute_baseline
from bolt_ray.commands.shared.gpus import resolve_here
from bolt_ray.commands.shared.inputs import check_inputs, prepare_inputs, require_training_packages
from bolt_ray.commands.shared.model_text import fit_to_tokenizer
from bolt_ray.commands.shared.ray_session import ray_session
from bolt_ray.commands.shared.resources import resource_map
from bolt_ray.commands.shared.say import say, shown
from bolt_ray.commands.train.assembly import TrainingAssembly
from bolt_ray.commands.train.fleet import Fleet
from bolt_ray.commands.train.observers import check_logging
from bolt_ray.commands.train.resume import (
    OpenedRun,
    changed_settings,
    open_run,
    with_commit,
    with_saved_revision,
    write_config,
)
from bolt_ray.config.own_code import check_own_code, with_absolute_files
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.digests import storage_errors
from bolt_ray.core.errors import ConfigError
from bolt_ray.training.checkpoint_uploads import CheckpointUploads
from bolt_ray.training.interrupts import InterruptFlag, catch_interrupts
from bolt_ray.training.loop import LoopOutcome
from bolt_ray.training.recovery import StartingPoint, train_with_recovery
from bolt_ray.training.run_directory import RunDirectory, make_final_model
from bolt_ray.training.telemetry.console import open_log
from bolt_ray.training.telemetry.state import StateWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome(LoopOutcome):
    """How a run ended, and where its files are.

    Attributes:
        run_directory: metrics, log, checkpoints; what ``resume`` goes on with.
        model: directory of the trained model in Hugging Face format; None when interrupted.
    """

    run_directory: Path
    model: Path | None


def train(config: RunConfig, *, console: Console | None = None) -> TrainingOutcome:
    """Train as ``config`` says, in this process and the Ray it starts or joins.

    Args:
        config: from `bolt_ray.load_config`, or made in Python: its relative paths are those of the working directory.
        console: what progress is printed on; default: standard output.

    Returns:
        How it ended; ``interrupted`` after Ctrl-C or SIGTERM, when the last step is saved and ``resume`` goes on.

    Raises:
        UserError: an input or the environment is not usable; nothing was trained.
        RunError: the run failed; checkpoints written so far are kept.
        Interrupted: a signal came before the first step.
    """
    console = console or Console()
    require_training_packages(config)
    check_logging(config)
    check_inputs(config)
    config = with_absolute_files(config, Path.cwd())
    own_rewards = check_own_code(config)
    config = resolve_here(config)
    if config.resume is None:
        _check_warm_start(config.baseline.warm_start)
    with open_run(config, say=partial(say, console)) as opened:
        return _train_in(opened, config, own_rewards=own_rewards, console=console)


def _train_in(opened: OpenedRun, config: RunConfig, *, own_rewards: list[str], console: Console) -> TrainingOutcome:
    run, checkpoint = opened.run, opened.checkpoint
    start = StartingPoint(checkpoint=checkpoint, state=opened.state)
    handler = open_log(run.log)
    try:
        with (
            catch_interrupts(InterruptFlag(at_once=True, also=opened.lock.check_last_seen)) as interrupts,
            StateWriter(run.state, max_steps=config.train.max_steps, first_step=start.step) as progress,
        ):
            config = with_saved_revision(config, opened.saved)
            inputs = prepare_inputs(config, say=partial(say, console))
            config = with_commit(fit_to_tokenizer(config, inputs.model_path), inputs.model_path)
            changed = changed_settings(opened, config)
            if checkpoint is None and config.baseline.warm_start == OWN_WARM_START:
                progress.stage("warm start")
                config = with_own_warm_start(config, run, console=console)
            if checkpoint is None:  # else it still tells of the run that is there, until this one is known to go on
                write_config(run.config, config)
            say(console, f"Run directory: {run.root}")
            for line in (*own_rewards, *changed):
                say(console, line)
            progress.stage("start")
            with _uploads(opened, config, say=partial(say, console)) as uploads:
                with (
                    ray_session(config.cluster, groups=resource_map(config)),
                    catch_interrupts(interrupts),
                    Fleet(config, inputs) as fleet,
                ):
                    ended = train_with_recovery(
                        partial(
                            TrainingAssembly,
                            config=config,
                            run=run,
                            lock=opened.lock,
                            inputs=inputs,
                            fleet=fleet,
                            interrupts=interrupts,
                            console=console,
                            progress=progress,
                            uploads=uploads,
                        ),
                        start,
                        run=run,
                        cluster=config.cluster,
                        say=partial(say, console),
                    )
                if not ended.interrupted:
                    with storage_errors("the trained model"):
                        make_final_model(run, step=ended.steps, resumed_from=checkpoint)
            progress.ended = "interrupted" if ended.interrupted else "done"
    except BaseException:
        log.exception("the run ended early")
        raise
    finally:
        logging.getLogger("bolt_ray").removeHandler(handler)
        handler.close()
    outcome = TrainingOutcome(
        **{field.name: getattr(ended, field.name) for field in fields(ended)},
        run_directory=run.root,
        model=None if ended.interrupted else run.final_model,
    )
    _report(outcome, run=run, console=console)
    return outcome


def _uploads(
    opened: OpenedRun, config: RunConfig, *, say: Callable[[str], None]
) -> AbstractContextManager[CheckpointUploads | None]:
    """At its end the last upload is waited for, when the run's processes have given their places back."""
    if opened.storage is None:
        return nullcontext()
    return CheckpointUploads(opened.storage, keep=config.checkpoint.keep, say=say)


def _check_warm_start(file: str | None) -> None:
    if file not in (None, OWN_WARM_START) and not Path(str(file)).is_file():
        raise ConfigError(
            f"baseline.warm_start: there is no file {file}; write it with 'bolt-ray precompute-baseline', or say "
            f"'{OWN_WARM_START}' to have it made before training"
        )


def with_own_warm_start(
    config: RunConfig, run: RunDirectory, *, console: Console, precompute: Callable[..., None] = precompute_baseline
) -> RunConfig:
    """The configuration with a warm start made of the model about to be trained (``baseline.warm_start: auto``).

    Raises:
        UserError, RunError, Interrupted: as `precompute_baseline`; nothing was trained.
    """
    samples = config.baseline.warm_start_samples
    say(console, f"Warm start: {samples} completions of every prompt first (baseline.warm_start: {OWN_WARM_START})")
    precompute(config, output=run.warm_start, num_samples=samples, console=console)
    return config.model_copy(update={"baseline": replace(config.baseline, warm_start=str(run.warm_start))})


def _report(outcome: TrainingOutcome, *, run: RunDirectory, console: Console) -> None:
    lines = [f"{outcome.steps} steps in {outcome.seconds:.0f} s"]
    if outcome.initial_score is not None and outcome.final is not None:
        gain = 100 * (outcome.final.value - outcome.initial_score.value)
        lines.append(f"Held-out accuracy: {outcome.initial_score} → {outcome.final}, {gain:+.1f} points")
    if outcome.interrupted:
        lines.append(f"Interrupted. Go on with: resume={shown(run.root)}")
    else:
        lines.append(f"Model: {shown(run.final_model)}   Metrics: {shown(run.metrics_jsonl)}")
    for line in lines:
        say(console, line)
