"""What wants to know of a run while it trains: files, dashboards, services. None of them may stop it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bolt_ray.core.advantages import AdvantageOutput
from bolt_ray.core.records import StepReport, TrainingBatch
from bolt_ray.training.rollout import StepRollouts
from bolt_ray.training.telemetry.health import Verdict
from bolt_ray.training.telemetry.timer import Span

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStep:
    """A finished optimizer step.

    Attributes:
        step: optimizer steps finished, with this one.
        rollouts: its completions.
        batch: what was trained; its sequences are ``rollouts.trainable``, in the same order.
        advantages: of these.
        report: the learner's.
        record: the step's line of ``metrics.jsonl``.
    """

    step: int
    rollouts: StepRollouts
    batch: TrainingBatch
    advantages: AdvantageOutput
    report: StepReport
    record: Mapping[str, Any]


class Observer:
    """Sees a run; what a subclass leaves out does nothing. Called from the driver's thread: nothing here may wait."""

    def phase_began(self, name: str) -> None:
        """The driver begins ``name`` (see `Span`)."""

    def phase_ended(self, span: Span) -> None:
        """The driver is done with it."""

    def worked(self, who: str, span: Span) -> None:
        """``generators`` or ``scorers`` had something to do all that time, or ``driver``: a part of a phase is done."""

    def trained(self, step: TrainedStep) -> None:
        """A step is done; its record follows by ``recorded``."""

    def recorded(self, record: Mapping[str, Any]) -> None:
        """A line was written to ``metrics.jsonl``: of a step, or of an evaluation (``eval/…``)."""

    def sampled(self, name: str, samples: Sequence[Mapping[str, Any]]) -> None:
        """A file of samples was written: ``step-000120`` or ``eval-000050`` and its rows."""

    def judged(self, verdict: Verdict) -> None:
        """Something is wrong with the run; ``said`` follows. Of a resumed one also what was said before."""

    def said(self, text: str) -> None:
        """A line was said to the user."""

    def close(self) -> None:
        """The run ended, in whatever way."""


class Observers(Observer):
    """All of them as one; one that fails is left out from then on, after a warning.

    Args:
        observers: in the order in which they are told.
        warn: says the warning.
    """

    def __init__(self, observers: Sequence[Observer], *, warn: Callable[[str], None]) -> None:
        self._observers = list(observers)
        self._warn = warn

    def phase_began(self, name: str) -> None:
        self._tell(lambda observer: observer.phase_began(name))

    def phase_ended(self, span: Span) -> None:
        self._tell(lambda observer: observer.phase_ended(span))

    def worked(self, who: str, span: Span) -> None:
        self._tell(lambda observer: observer.worked(who, span))

    def trained(self, step: TrainedStep) -> None:
        self._tell(lambda observer: observer.trained(step))

    def recorded(self, record: Mapping[str, Any]) -> None:
        self._tell(lambda observer: observer.recorded(record))

    def sampled(self, name: str, samples: Sequence[Mapping[str, Any]]) -> None:
        self._tell(lambda observer: observer.sampled(name, samples))

    def judged(self, verdict: Verdict) -> None:
        self._tell(lambda observer: observer.judged(verdict))

    def said(self, text: str) -> None:
        self._tell(lambda observer: observer.said(text))

    def close(self) -> None:
        self._tell(lambda observer: observer.close())

    def _tell(self, what: Callable[[Observer], None]) -> None:
        for observer in list(self._observers):
            if observer not in self._observers:
                continue  # it failed at something that another one said meanwhile
            try:
                what(observer)
            except Exception as error:
                self._observers.remove(observer)
                log.warning("%s failed", type(observer).__name__, exc_info=True)
                self._warn(
                    f"Warning: {type(observer).__name__} failed and is left out from here on; training goes on "
                    f"({type(error).__name__}: {error})"
                )
