"""Who observes a training run, as its configuration asks."""

from __future__ import annotations

from bolt_ray.config.schema import RunConfig
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.observer import Observer


def observers(config: RunConfig, run: RunDirectory, *, first_step: int) -> list[Observer]:
    """In the order in which they are told.

    Args:
        first_step: finished steps that a resumed run goes on from; 0 for a new one.
    """
    return []
