"""The one place through which a training run says what it does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bolt_ray.core.evaluation.summary import EvaluationResult
from bolt_ray.training.telemetry.console import ProgressDisplay
from bolt_ray.training.telemetry.health import Health, Verdict
from bolt_ray.training.telemetry.observer import Observer, Observers, TrainedStep
from bolt_ray.training.telemetry.record import MetricsLog
from bolt_ray.training.telemetry.sample_files import SampleFiles, WrittenSamples
from bolt_ray.training.telemetry.timer import Span, StepTimer

log = logging.getLogger(__name__)


class Telemetry:
    """The record first, then the terminal, then whoever else observes the run.

    Args:
        metrics: the record; what a full disk does not take is written when it does.
        display: the terminal.
        observers: everything else.
        health: what the records so far say of the run; it is told of each new one.
        samples: completions to be read; an error in writing them is a warning.
    """

    def __init__(
        self,
        *,
        metrics: MetricsLog,
        display: ProgressDisplay,
        observers: Sequence[Observer] = (),
        health: Health | None = None,
        samples: SampleFiles | None = None,
    ) -> None:
        self._metrics = metrics
        self._display = display
        health = health or Health()
        self._observers = Observers([*observers, _Judge(health, found=self._found)], warn=display.say)
        for verdict in health.verdicts:
            self._observers.judged(verdict)
        self._samples = samples

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

    def worked(self, who: str, span: Span) -> None:
        """See `Observer.worked`."""
        self._observers.worked(who, span)

    def trained(self, step: TrainedStep) -> None:
        """A step is done: its samples and its record are written, and it is shown."""
        self._observers.trained(step)
        self._sample(lambda files: files.of_step(step))
        self.record(step.record)
        self._display.step(step.step, step.record)

    def evaluation(self, result: EvaluationResult, record: Mapping[str, Any]) -> None:
        """An evaluation is done: its samples and its record are written."""
        step, version = int(record["step"]), int(record["policy_version"])
        self._sample(lambda files: files.of_evaluation(result, step=step, policy_version=version))
        self.record(record)

    def record(self, record: Mapping[str, Any]) -> None:
        """Write a line of the record; ``step`` is its number of finished optimizer steps."""
        record = self._metrics.write(record)
        problem = self._metrics.take_problem()
        if problem is not None:
            self.say(
                f"Warning: metrics cannot be written ({problem}); training goes on, and they are written as soon as "
                "that is possible again"
            )
        self._observers.recorded(record)
        self._display.evaluated(record)

    def say(self, text: str) -> None:
        """Say a line to the user, and log it."""
        self._display.say(text)
        self._observers.said(text)

    def close(self) -> None:
        """The run ended; call it in whatever way it did."""
        self._observers.close()

    def _found(self, verdict: Verdict) -> None:
        self._observers.judged(verdict)
        self.say(str(verdict))

    def _sample(self, write: Callable[[SampleFiles], WrittenSamples | None]) -> None:
        """Write samples and hand them on; no more of them after an error."""
        if self._samples is None:
            return
        try:
            written = write(self._samples)
        except Exception as error:
            self._samples = None
            log.warning("samples failed", exc_info=True)
            self.say(
                "Warning: samples of completions are not written from here on; training goes on "
                f"({type(error).__name__}: {error})"
            )
            return
        if written is not None:
            self._observers.sampled(written.name, written.rows)


class _Judge(Observer):
    """Says what is wrong, once; an observer, so that a mistake in it stops no run."""

    def __init__(self, health: Health, *, found: Callable[[Verdict], None]) -> None:
        self._health = health
        self._found = found

    def recorded(self, record: Mapping[str, Any]) -> None:
        for verdict in self._health.take(record):
            self._found(verdict)
