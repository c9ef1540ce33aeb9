"""The one place through which a training run says what it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bolt_ray.training.telemetry.console import ProgressDisplay
from bolt_ray.training.telemetry.observer import Observer, Observers, TrainedStep
from bolt_ray.training.telemetry.record import MetricsLog
from bolt_ray.training.telemetry.timer import StepTimer


class Telemetry:
    """The record first, then the terminal, then whoever else observes the run.

    Args:
        metrics: the record, which is the truth: an error in writing it is one of the run.
        display: the terminal.
        observers: everything else.
    """

    def __init__(self, *, metrics: MetricsLog, display: ProgressDisplay, observers: Sequence[Observer] = ()) -> None:
        self._metrics = metrics
        self._display = display
        self._observers = Observers(observers, warn=display.say)

    @property
    def evaluated(self) -> set[int]:
        """Steps whose evaluation is in the record."""
        return self._metrics.evaluated

    @property
    def last(self) -> Mapping[str, Any]:
        """Of the records that a resumed run keeps: the newest value of each metric."""
        return self._metrics.last

    def timer(self) -> StepTimer:
        """A timer for the phases of one step."""
        return StepTimer(began=self._observers.phase_began, ended=self._observers.phase_ended)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase outside of a step, such as an evaluation."""
        with self.timer().phase(name):
            yield

    def trained(self, step: TrainedStep) -> None:
        """A step is done: its record is written and shown."""
        self._observers.trained(step)
        self.record(step.record)
        self._display.step(step.step, step.record)

    def record(self, record: Mapping[str, Any]) -> None:
        """Write a line of the record; ``step`` is its number of finished optimizer steps."""
        self._metrics.write(record)
        self._observers.recorded(record)

    def sampled(self, name: str, samples: Sequence[Mapping[str, Any]]) -> None:
        """A file of samples was written."""
        self._observers.sampled(name, samples)

    def say(self, text: str) -> None:
        """Say a line to the user, and log it."""
        self._display.say(text)
        self._observers.said(text)

    def close(self) -> None:
        """The run ended; call it in whatever way it did."""
        self._observers.close()
