"""The training loop: one optimizer step after another.

    (1) prompts drawn, v̂ read         ┐
    (2) generated and scored           ├ RolloutLoop
    (3) advantages over the whole step   BatchBuilder
    (4) DeepSpeed step                   LearnerGroup    (the rollout loop is pumped meanwhile)
    (5) weights to the generators        WeightSync      version z+1 from here on
    (6) outcomes to the baseline         BaselineShards  once, by update_id
    (7) curriculum refreshed when due    PromptStream
    (8) metrics, checkpoint, evaluation when due

A step that fails, or whose loss or gradient is not finite, leaves (5) to (7) undone; one of which every completion is
masked leaves out (5) alone: it moved nothing, and its completions were scored all the same.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bolt_ray.actors.processes import ProcessInfo, memory_metrics
from bolt_ray.core.errors import LearnerLostError, StorageError, UnhealthyTrainingError
from bolt_ray.core.evaluation.summary import Score
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import Outcomes, StepReport, TrainingBatch
from bolt_ray.rewards.unscored import UnscoredWatch
from bolt_ray.training.batch import BatchBuilder
from bolt_ray.training.completion_metrics import RunTotals
from bolt_ray.training.completions import CompletionService
from bolt_ray.training.evaluator import Evaluator
from bolt_ray.training.interrupts import Interrupted, InterruptFlag
from bolt_ray.training.late_pump import LatePump
from bolt_ray.training.rollout import RolloutLoop, StepRollouts
from bolt_ray.training.scored_steps import ScoredSteps
from bolt_ray.training.settings import CheckpointSettings, EvalSettings
from bolt_ray.training.step_metrics import ServiceTotals, step_metrics
from bolt_ray.training.telemetry.notices import Notices
from bolt_ray.training.telemetry.observer import TrainedStep
from bolt_ray.training.telemetry.telemetry import Telemetry
from bolt_ray.training.telemetry.timer import StepTimer
from bolt_ray.training.weight_sync import WeightSync, choose_probes

declare_metrics(
    {
        "optim/skipped": (
            "",
            "1 where the step changed nothing: its loss or a gradient was not finite, or every completion is masked",
        ),
        "policy/sync_gap": (
            "nats",
            "largest |Δ log p| between a generator and the learner after the weight sync, over the compared tokens",
        ),
        "policy/drift": (
            "nats",
            "mean |Δ log p| by which this version moved the policy on the compared tokens, without policy/rounding",
        ),
        "time/eval": ("s", "one evaluation"),
        "cluster/learner_restarts": (
            "times",
            "the learner was lost and started again from a checkpoint, since the run or its resume began",
        ),
        "time/checkpoint": ("s", "the checkpoint written before the step, generation going on meanwhile"),
    }
)

log = logging.getLogger(__name__)


class StepTrainer(Protocol):
    """Trains one batch and calls ``idle`` while it waits; ``leaving`` says why it will soon be gone, "" if it stays."""

    def leaving(self) -> str: ...
    def train(self, batch: TrainingBatch, *, timeout_s: float, idle: Callable[[], None]) -> StepReport: ...


class BaselineSink(Protocol):
    """Takes the outcomes of each trained step."""

    def commit(self, outcomes: Outcomes, *, update_id: str, drift: float | None) -> None: ...
    def metrics(self, version: int) -> dict[str, float]: ...


class CurriculumFeedback(Protocol):
    """Follows the baseline after each trained step."""

    def after_step(self, step: int, rollouts: StepRollouts, *, version: int) -> None: ...
    def metrics(self) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopOutcome:
    """How the loop ended.

    Attributes:
        steps: optimizer steps done.
        initial_score: evaluation before the first step; None without held-out problems.
        final: evaluation after the last step; None without held-out problems or when interrupted.
        seconds: wall-clock time of this process's part.
        interrupted: True if a signal ended it.
    """

    steps: int
    initial_score: Score | None
    final: Score | None
    seconds: float
    interrupted: bool


class LearnerLeaving(Exception):  # noqa: N818 - a notice, not an error
    """A node of the learner is being taken away; the message says which."""


def _nothing() -> None:
    pass


class TrainingLoop:
    """See the module's picture; the parts are given by keyword.

    Whatever ends a run between two steps, what it trained is saved first, as long as the learner answers.
    """

    def __init__(
        self,
        *,
        max_steps: int,
        evaluation: EvalSettings,
        checkpoints: CheckpointSettings,
        step_timeout_s: float,
        max_masked_steps: int,
        rollout: RolloutLoop,
        service: CompletionService,
        builder: BatchBuilder,
        learner: StepTrainer,
        sync: WeightSync,
        baseline: BaselineSink,
        curriculum: CurriculumFeedback,
        evaluator: Evaluator | None,
        telemetry: Telemetry,
        notices: Notices,
        interrupts: InterruptFlag,
        save: Callable[[int, Callable[[], None]], None],
        unscored: UnscoredWatch,
        totals: RunTotals,
        processes: Callable[[], Sequence[ProcessInfo]],
        first_step: int = 0,
        learner_restarts: int = 0,
        initial_score: Score | None = None,
    ) -> None:
        """
        Args:
            max_steps: optimizer steps in all, those before a resume included.
            step_timeout_s: deadline of one.
            max_masked_steps: steps in a row without a completion to train on that end the run.
            save: ``save(step, idle)`` writes the checkpoint of ``step`` finished steps and calls ``idle`` while it
                waits; or it raises ``StorageError`` and leaves everything as it was.
            unscored: decides whether a step is trained that lacks rewards.
            processes: the run's, for their memory.
            learner_restarts: attempts before this one.
        """
        self._max_steps = max_steps
        self._evaluation = evaluation
        self._checkpoints = checkpoints
        self._step_timeout_s = step_timeout_s
        self._rollout = rollout
        self._service = service
        self._builder = builder
        self._learner = learner
        self._sync = sync
        self._baseline = baseline
        self._curriculum = curriculum
        self._evaluator = evaluator
        self._telemetry = telemetry
        self._notices = notices
        self._interrupts = interrupts
        self._save = save
        self._steps = ScoredSteps(rollout, unscored=unscored, notices=notices, say=telemetry.say)
        self._max_masked_steps = max_masked_steps
        self._masked_in_a_row = 0
        self._totals = totals
        self._processes = processes
        self._step = first_step
        self._learner_restarts = learner_restarts
        self._between_steps = True
        self._saved_at = first_step if first_step else -1
        self._saving_s: float | None = None
        self._initial_score = initial_score

    def run(self) -> LoopOutcome:
        """Train to the last step, or until interrupted; a checkpoint is written either way."""
        started = time.monotonic()
        final = None
        interrupted = False
        try:
            if self._evaluation.at_start and self._initial_score is None:
                self._initial_score = self._evaluate("Baseline")
            if self._step > 0:
                self._evaluate_if_due()  # an interrupt may have cut it off after the step
            while self._step < self._max_steps:
                self._one_step()
                self._evaluate_if_due()
                if self._due(self._checkpoints.every_steps):
                    self._checkpoint_in_between()
                self.check()
            if self._evaluation.at_end:
                final = self._evaluate("Final")
        except Interrupted as signal:
            interrupted = True
            self._telemetry.say(f"{signal}: saving step {self._step} and shutting down")
        except LearnerLostError:
            raise
        except LearnerLeaving as notice:
            self._save_before_the_end(str(notice))
            raise LearnerLostError(str(notice)) from None
        except Exception as error:
            self._save_before_the_end(f"{type(error).__name__}: {error}")
            raise
        self._checkpoint()
        self._telemetry.say(f"Completions: {self._rollout.account}")
        return LoopOutcome(
            steps=self._step,
            initial_score=self._initial_score,
            final=final,
            seconds=time.monotonic() - started,
            interrupted=interrupted,
        )

    def check(self) -> None:
        """Raise where a run should end, or its learner move, at a moment at which it loses nothing.

        Raises:
            Interrupted: by a signal.
            LearnerLeaving: by the cluster.
        """
        self._interrupts.check()
        if reason := self._learner.leaving():
            raise LearnerLeaving(reason)

    def _one_step(self) -> None:
        timer = self._telemetry.timer()
        before = ServiceTotals.of(self._service)
        with timer.phase("wait_rollouts"):
            rollouts = self._steps.next(check=self.check)
        version = self._rollout.version
        batch, advantages = self._builder.build(rollouts, step=self._step)
        trained = zip(rollouts.trainable, batch.active.tolist(), strict=True)
        self._rollout.leave_out((item.request_id for item, active in trained if not active), "masked")
        outcomes = self._builder.outcomes(rollouts)
        record = self._builder.metrics(rollouts, advantages, version=version)
        self._notices.of_batch(advantages, record)
        generation = LatePump(self._rollout)
        self._between_steps = False
        with timer.phase("train"):
            report = self._learner.train(batch, timeout_s=self._step_timeout_s, idle=generation.pump)
        assert report.policy_version == version + (not report.skipped), (
            f"the learner is at policy version {report.policy_version} after a step of version {version}"
        )
        record.update(report.metrics)
        self._notices.of_update(record)
        self._step += 1
        try:
            record |= self._settle(report, batch, rollouts, outcomes, version=version, timer=timer)
        except Exception as error:
            generation.check(after=error)
            raise
        self._between_steps = True
        record.update(self._baseline.metrics(self._rollout.version))
        record.update(self._curriculum.metrics())
        record.update(self._rollout.metrics())
        record.update(
            step_metrics(before, ServiceTotals.of(self._service), timer.seconds, num_sequences=batch.num_sequences)
        )
        record["cluster/learner_restarts"] = float(self._learner_restarts)
        record |= self._service.engine_metrics() | memory_metrics(self._processes()) | self._totals.add(rollouts)
        if self._saving_s is not None:
            record["time/checkpoint"], self._saving_s = self._saving_s, None
        head = {"step": self._step, "policy_version": self._rollout.version, **self._totals.times()}
        self._telemetry.trained(
            TrainedStep(
                step=self._step,
                rollouts=rollouts,
                batch=batch,
                advantages=advantages,
                report=report,
                record=head | record,
            )
        )
        generation.check()
        self._check_masked(batch)

    def _settle(
        self,
        report: StepReport,
        batch: TrainingBatch,
        rollouts: StepRollouts,
        outcomes: Outcomes,
        *,
        version: int,
        timer: StepTimer,
    ) -> dict[str, float]:
        """What follows from a trained step: generators, baseline and curriculum come to where the learner is."""
        if report.skipped:
            masked = not batch.active.any()
            why = "every completion of it is masked" if masked else "the loss or a gradient was not finite"
            log.warning("step %d was skipped: %s", self._step, why)
            record, drift = {"optim/skipped": 1.0}, 0.0
            if not masked:
                self._rollout.leave_out((item.request_id for item in rollouts.trainable), "skipped")
            self._rollout.release(version)
            if not masked:
                return record
        else:
            with timer.phase("sync"):
                synced = self._sync.run(
                    report.policy_version,
                    choose_probes(batch, report),
                    rounding=report.metrics.get("policy/rounding", 0.0),
                )
            record, drift = {"policy/sync_gap": synced.gap, "policy/drift": synced.drift}, synced.drift
        with timer.phase("baseline"):
            self._baseline.commit(outcomes, update_id=f"step-{self._step}", drift=drift)
        with timer.phase("curriculum"):
            self._curriculum.after_step(self._step, rollouts, version=report.policy_version)
        return record

    def _check_masked(self, batch: TrainingBatch) -> None:
        """Steps that train nothing, one after the other, are no training."""
        self._masked_in_a_row = 0 if batch.active.any() else self._masked_in_a_row + 1
        if self._masked_in_a_row >= self._max_masked_steps:
            raise UnhealthyTrainingError(
                f"in {self._masked_in_a_row} steps in a row every completion was cut at the length limit and masked: "
                "nothing is trained (train.max_bad_steps). Raise sampling.max_new_tokens, or set loss.mask_truncated "
                "to false"
            )

    def _evaluate_if_due(self) -> None:
        due = self._due(self._evaluation.every_steps) and self._step < self._max_steps
        if due and self._step not in self._telemetry.evaluated:
            self._evaluate(f"Step {self._step}")

    def _evaluate(self, title: str) -> Score | None:
        if self._evaluator is None:
            return None
        timer = self._telemetry.timer()
        with timer.phase("evaluate"):
            result = self._evaluator.run(pump=self._pump_for_eval)
        self._service.engine_metrics()  # the next step's are to be its own
        head = {"step": self._step, "policy_version": self._rollout.version, **self._totals.times()}
        self._telemetry.evaluation(result, head | result.metrics | {"time/eval": timer.seconds["evaluate"]})
        self._telemetry.say(f"{title}: {result.score}")
        return result.score

    @property
    def initial_score(self) -> Score | None:
        """The evaluation before the first step, for the checkpoint."""
        return self._initial_score

    def _pump_for_eval(self, timeout_s: float) -> None:
        self.check()
        self._service.pump(timeout_s)

    def _checkpoint_in_between(self) -> None:
        """A checkpoint while training goes on, also if it fails: the one before is still there."""
        began = time.monotonic()
        generation = LatePump(self._rollout)
        try:
            # After the last step there is nothing more to generate.
            self._checkpoint(generation.pump if self._step < self._max_steps else _nothing)
        except StorageError as error:
            log.warning("no checkpoint of step %d", self._step, exc_info=True)
            self._telemetry.say(
                f"Warning: step {self._step} IS NOT SAVED, training goes on and the next checkpoint is tried as usual "
                f"(every {self._checkpoints.every_steps} steps): {error}"
            )
        self._saving_s = time.monotonic() - began
        generation.check()

    def _checkpoint(self, idle: Callable[[], None] = _nothing) -> None:
        if self._saved_at != self._step:
            with self._telemetry.phase("checkpoint"):
                self._save(self._step, idle)
            self._saved_at = self._step

    def _save_before_the_end(self, why: str) -> None:
        """A checkpoint if one can be had: of what failed, the user hears of ``why`` first."""
        if not self._between_steps or self._step == 0 or self._saved_at == self._step:
            return
        self._telemetry.say(f"Saving step {self._step} first: {why}")
        try:
            self._checkpoint()
        except Exception:
            log.exception("step %d could not be saved", self._step)

    def _due(self, every: int) -> bool:
        return every > 0 and self._step % every == 0
