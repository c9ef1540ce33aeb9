"""Settings of what a run's numbers and samples are sent to (``logging:``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bolt_ray.core.settings import Settings, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingSettings(Settings):
    """``logging:`` - where metrics and samples go beside the run directory; none of it can stop or slow training."""

    wandb: Literal[False, True, "offline"] = setting(
        False,
        "Weights & Biases; offline: only into wandb/ of the run directory, for wandb sync, which is also done where "
        "there is no API key or no answer",
    )
    wandb_project: str = setting("bolt-ray", "project of the run, in trackio too", min_length=1)
    wandb_entity: str | None = setting(None, "user or team; default: that of the API key", min_length=1)
    wandb_group: str | None = setting(None, "runs shown as one, such as the seeds of an experiment", min_length=1)
    wandb_tags: tuple[str, ...] = setting((), "labels of the run")
    tensorboard: bool = setting(False, "event files in tensorboard/ of the run directory")
    trackio: bool = setting(False, 'trackio, seen with "trackio show"; it is an extra: pip install "bolt-ray[trackio]"')
    samples_every_steps: int = setting(
        20,
        "tables of training's samples in wandb, TensorBoard and trackio, which many would slow down; those of "
        "evaluations all go there; 0: none of training",
        unit="steps",
        ge=0,
    )
    ray_metrics: bool = setting(
        True, "the main numbers as gauges of Ray, for its dashboard, Prometheus and Grafana (bolt_ray_*)"
    )
