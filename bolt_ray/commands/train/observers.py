"""What a training run says, and who observes it, as its configuration asks."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.core.secrets import masked
from bolt_ray.engines.profiler import ProfileTarget
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.console import ProgressDisplay
from bolt_ray.training.telemetry.health import Health
from bolt_ray.training.telemetry.observer import Observer
from bolt_ray.training.telemetry.profiling import Profiling
from bolt_ray.training.telemetry.ray_metrics import RayMetrics
from bolt_ray.training.telemetry.record import MetricsLog
from bolt_ray.training.telemetry.sample_files import SampleFiles
from bolt_ray.training.telemetry.sinks.processes import Sinks
from bolt_ray.training.telemetry.sinks.settings import LoggingSettings
from bolt_ray.training.telemetry.sinks.sink import SinkStart
from bolt_ray.training.telemetry.state import StateWriter
from bolt_ray.training.telemetry.telemetry import Telemetry
from bolt_ray.training.telemetry.trace import TraceFile


def start_telemetry(
    stack: ExitStack,
    config: RunConfig,
    run: RunDirectory,
    *,
    first_step: int,
    resumed: bool,
    progress: StateWriter,
    console: Console,
    profile_generators: Callable[[ProfileTarget | None], None],
) -> Telemetry:
    """The record, the terminal, the samples and the observers of a run, which end with ``stack``.

    Args:
        first_step: finished steps.
        resumed: keep the records of these.
        progress: ``state.json``.
        profile_generators: see `GeneratorPool.profile`.
    """
    display = stack.enter_context(
        ProgressDisplay(total_steps=config.train.max_steps, first_step=first_step, console=console)
    )
    metrics = MetricsLog(run, keep_up_to_step=first_step if resumed else None)
    for record in metrics.kept:
        display.evaluated(record)
        progress.evaluated(record)
    made: list[Observer] = observers(config, run, first_step=first_step, say=lambda text: telemetry.say(text))
    if config.profile.steps is not None:
        made.append(Profiling(run, config.profile, first_step=first_step, generators=profile_generators))
    telemetry = Telemetry(
        metrics=metrics,
        display=display,
        observers=[progress, *made],
        health=Health(metrics.kept),
        samples=SampleFiles(
            run.samples, config.samples, reward_range=config.baseline.scaled_from, first_step=first_step
        ),
    )
    stack.callback(telemetry.close)
    return telemetry


def observers(config: RunConfig, run: RunDirectory, *, first_step: int, say: Callable[[str], None]) -> list[Observer]:
    """In the order in which they are told.

    Args:
        first_step: finished steps that a resumed run goes on from; 0 for a new one.
        say: says a line to the user.
    """
    made: list[Observer] = []
    if config.logging.ray_metrics:
        made.append(RayMetrics(run.root.name))
    starts = sink_starts(config, run, first_step=first_step)
    if starts:
        made.append(Sinks(starts, say=say))
    if config.profile.trace_mb:
        made.append(TraceFile(run, max_bytes=int(1e6 * config.profile.trace_mb)))
    return made


def sink_starts(config: RunConfig, run: RunDirectory, *, first_step: int) -> list[SinkStart]:
    """What each sink that the configuration asks for is made from."""
    shown = masked(config.model_dump(mode="json"), environ=os.environ)
    return [
        SinkStart(
            kind=kind,
            directory=str(run.root),
            config=shown,
            first_step=first_step,
            samples_every=config.logging.samples_every_steps,
            options=options,
        )
        for kind, options in _sinks(config.logging).items()
    ]


def check_logging(config: RunConfig, *, find: Callable[[str], Any] = importlib.util.find_spec) -> None:
    """Refuse to start without the package of a sink that is an extra.

    Args:
        find: gives None for a package that is not installed.

    Raises:
        EnvironmentProblem: it is not installed.
    """
    if config.logging.trackio and find("trackio") is None:
        raise EnvironmentProblem(
            'logging.trackio: trackio is not installed; install it with pip install "bolt-ray[trackio]", or set '
            "logging.trackio to false"
        )


def describe_logging(config: RunConfig) -> str:
    """Where the numbers of a run go, in words."""
    said = {"wandb": f"wandb (project {config.logging.wandb_project})", "tensorboard": "TensorBoard"}
    if config.logging.wandb == "offline":
        said["wandb"] = "wandb, offline"
    places = ["metrics.jsonl and metrics.csv in the run directory"]
    places += [said.get(kind, kind) for kind in _sinks(config.logging)]
    places += ["Ray's metrics (bolt_ray_*)"] if config.logging.ray_metrics else []
    return f"Metrics go to {'; '.join(places)}."


def _sinks(logging: LoggingSettings) -> dict[str, dict[str, Any]]:
    """The sinks that are on, with the options of each."""
    found: dict[str, dict[str, Any]] = {}
    if logging.wandb:
        found["wandb"] = {
            "mode": "offline" if logging.wandb == "offline" else "online",
            "project": logging.wandb_project,
            "entity": logging.wandb_entity,
            "group": logging.wandb_group,
            "tags": list(logging.wandb_tags),
        }
    if logging.tensorboard:
        found["tensorboard"] = {}
    if logging.trackio:
        found["trackio"] = {"project": logging.wandb_project, "group": logging.wandb_group}
    return found
