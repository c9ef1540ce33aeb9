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
from bolt_ray.core.evaluation.summary import Score
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import Outcomes, StepReport, TrainingBatch
from bolt_ray.rewards.unscored import UnscoredCheck, count_reasons
from bolt_ray.training.batch import BatchBuilder
from bolt_ray.training.completion_metrics import RunTotals
from bolt_ray.training.completions import CompletionService
from bolt_ray.training.evaluator import Evaluator
from bolt_ray.training.interrupts import Interrupted, InterruptFlag
from bolt_ray.training.rollout import RolloutLoop, StepRollouts
from bolt_ray.training.settings import CheckpointSettings, EvalSettings
from bolt_ray.training.step_metrics import ServiceTotals, step_metrics
from bolt_ray.training.telemetry.notices import Notices
from bolt_ray.training.telemetry.observer import TrainedStep
from bolt_ray.training.telemetry.telemetry import Telemetry
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
    }
)

log = logging.getLogger(__name__)


class StepTrainer(Protocol):
    """Trains one batch; calls ``idle`` while it waits."""

    def train(self, batch: TrainingBatch, *, timeout_s: float, idle: Callable[[], None]) -> StepReport: ...


class BaselineSink(Protocol):
    """Takes the outcomes of each trained step."""

    def commit(self, outcomes: Outcomes, *, update_id: str, drift: float | None) -> None: ...
    def metrics(self) -> dict[str, float]: ...


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


class TrainingLoop:
    """See the module's picture; the parts are given by keyword."""

    def __init__(
        self,
        *,
        max_steps: int,
        evaluation: EvalSettings,
        checkpoints: CheckpointSettings,
        step_timeout_s: float,
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
        save: Callable[[int], None],
        check_scores: UnscoredCheck,
        totals: RunTotals,
        processes: Callable[[], Sequence[ProcessInfo]],
        first_step: int = 0,
        initial_score: Score | None = None,
    ) -> None:
        """``max_steps``: optimizer steps in all, those before a resume included; ``step_timeout_s``: deadline of one;
        ``save(step)`` writes the checkpoint of ``step`` finished steps; ``check_scores`` raises when too
        many completions could not be scored; ``processes()`` are the run's, for their memory."""
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
        self._check_scores = check_scores
        self._totals = totals
        self._processes = processes
        self._step = first_step
        self._saved_at = first_step if first_step else -1
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
                    self._checkpoint()
                self._interrupts.check()
            if self._evaluation.at_end:
                final = self._evaluate("Final")
        except Interrupted as signal:
            interrupted = True
            self._telemetry.say(f"{signal}: saving step {self._step} and shutting down")
        self._checkpoint()
        self._telemetry.say(f"Completions: {self._rollout.account}")
        return LoopOutcome(
            steps=self._step,
            initial_score=self._initial_score,
            final=final,
            seconds=time.monotonic() - started,
            interrupted=interrupted,
        )

    def _one_step(self) -> None:
        timer = self._telemetry.timer()
        before = ServiceTotals.of(self._service)
        with timer.phase("wait_rollouts"):
            rollouts = self._rollout.next_step()
        version = self._rollout.version
        reasons = count_reasons(item.reason for item in rollouts.unscored)
        self._notices.of_unscored(rollouts, reasons)
        self._check_scores(num_scored=len(rollouts.trainable), reasons=reasons)
        batch, advantages = self._builder.build(rollouts, step=self._step)
        trained = zip(rollouts.trainable, batch.active.tolist(), strict=True)
        self._rollout.leave_out((item.request_id for item, active in trained if not active), "masked")
        outcomes = self._builder.outcomes(rollouts)
        record = self._builder.metrics(rollouts, advantages, version=version)
        self._notices.of_batch(advantages, record)
        with timer.phase("train"):
            report = self._learner.train(batch, timeout_s=self._step_timeout_s, idle=self._pump_without_check)
        assert report.policy_version == version + (not report.skipped), (
            f"the learner is at policy version {report.policy_version} after a step of version {version}"
        )
        record.update(report.metrics)
        self._notices.of_update(record)
        self._step += 1
        drift: float | None = 0.0
        if report.skipped:
            masked = not batch.active.any()
            why = "every completion of it is masked" if masked else "the loss or a gradient was not finite"
            log.warning("step %d was skipped: %s", self._step, why)
            record["optim/skipped"] = 1.0
            if not masked:
                drift = None
                self._rollout.leave_out((item.request_id for item in rollouts.trainable), "skipped")
            self._rollout.release(version)
        else:
            with timer.phase("sync"):
                synced = self._sync.run(
                    report.policy_version,
                    choose_probes(batch, report),
                    rounding=report.metrics.get("policy/rounding", 0.0),
                )
            drift = synced.drift
            record |= {"policy/sync_gap": synced.gap, "policy/drift": synced.drift}
        if drift is not None:
            with timer.phase("baseline"):
                self._baseline.commit(outcomes, update_id=f"step-{self._step}", drift=drift)
            with timer.phase("curriculum"):
                self._curriculum.after_step(self._step, rollouts, version=report.policy_version)
        record.update(self._baseline.metrics())
        record.update(self._curriculum.metrics())
        record.update(self._rollout.metrics())
        record.update(
            step_metrics(before, ServiceTotals.of(self._service), timer.seconds, num_sequences=batch.num_sequences)
        )
        record |= self._service.engine_metrics() | memory_metrics(self._processes()) | self._totals.add(rollouts)
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

    def _pump_without_check(self) -> None:
        """While the learner works: an interrupt is looked for only after the step."""
        self._rollout.pump(0.0)

    def _pump_for_eval(self, timeout_s: float) -> None:
        self._interrupts.check()
        self._service.pump(timeout_s)

    def _checkpoint(self) -> None:
        if self._saved_at != self._step:
            with self._telemetry.phase("checkpoint"):
                self._save(self._step)
            self._saved_at = self._step

    def _due(self, every: int) -> bool:
        return every > 0 and self._step % every == 0
