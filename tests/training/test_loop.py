"""The order of a step, and what a step that fails or is skipped leaves undone."""

from __future__ import annotations

import io
import itertools
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.fakes import FakeBaseline, FakeGenerators, FakeScorers, RewardOf, no_two_alike, tokens_of

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.scorer_actor import ScoringRequest
from bolt_ray.core.advantages import AdvantageOptions
from bolt_ray.core.errors import StorageError, UnhealthyTrainingError, WeightSyncError
from bolt_ray.core.evaluation.summary import Score
from bolt_ray.core.records import (
    Completion,
    DrawnPrompt,
    GenerationRequest,
    Outcomes,
    Prompt,
    StepReport,
    TrainingBatch,
)
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.rewards.unscored import UnscoredWatch
from bolt_ray.training.batch import BatchBuilder
from bolt_ray.training.completion_metrics import RunTotals
from bolt_ray.training.completions import CompletionService
from bolt_ray.training.evaluator import Evaluator
from bolt_ray.training.interrupts import InterruptFlag
from bolt_ray.training.loop import TrainingLoop
from bolt_ray.training.rollout import RolloutLoop, StepRollouts
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.settings import CheckpointSettings, EvalSettings, RolloutSettings
from bolt_ray.training.telemetry.console import ProgressDisplay
from bolt_ray.training.telemetry.notices import Notices
from bolt_ray.training.telemetry.record import MetricsLog, read_metrics
from bolt_ray.training.telemetry.telemetry import Telemetry
from bolt_ray.training.weight_sync import ParityProbe, SyncReport


class Cutting(FakeGenerators):
    """Ends some completions at the length limit; see `FakeParts`."""

    def __init__(self, number: int | None, first: int | None) -> None:
        super().__init__()
        self._number, self._first = number, first

    def completed(self, request: GenerationRequest, *, truncated: bool = False) -> Completion:
        late = self._first is not None and request.request_id >= self._first
        return super().completed(request, truncated=late or request.request_id % 4 == self._number)


class FakeParts:
    """Learner, weight sync, baseline and curriculum at once; ``calls`` says who was asked, in which order.

    Args:
        bad_steps: steps that the learner skips.
        sync_fails_at: the version that the generators never reach.
        interrupt_at: the step during whose training a signal comes.
        lost_updates: how many updates the learner counts too few.
        truncated: of every four completions, the number of the one that the length limit ends; None: none.
        truncated_from: the first completion of those that it ends, all that follow included.
        unsaved: steps whose checkpoints meet a full disk, once each.
    """

    def __init__(
        self,
        *,
        bad_steps: Sequence[int] = (),
        sync_fails_at: int | None = None,
        interrupt_at: int | None = None,
        lost_updates: int = 0,
        truncated: int | None = None,
        truncated_from: int | None = None,
        unsaved: Sequence[int] = (),
    ) -> None:
        self.calls: list[str] = []
        self.commits: list[Outcomes] = []
        self.drifts: list[float | None] = []
        self.measured_at: list[int] = []
        self.generators = Cutting(truncated, truncated_from)
        self.scorers = FakeScorers()
        self.interrupts = InterruptFlag()
        self.rollout: RolloutLoop | None = None
        self.leaves = ""
        self.while_training: Callable[[int], None] = lambda step: None
        self._version = -lost_updates
        self.generated_while_saving: list[int] = []
        self._unsaved = list(unsaved)
        self._bad_steps, self._sync_fails_at, self._interrupt_at = bad_steps, sync_fails_at, interrupt_at

    def leaving(self) -> str:
        return self.leaves

    def train(self, batch: TrainingBatch, *, timeout_s: float, idle: Callable[[], None]) -> StepReport:
        self.calls.append(f"train {batch.step}")
        self.while_training(batch.step)
        idle()
        if batch.step == self._interrupt_at:
            self.interrupts._handle(signal.SIGTERM, None)
        skipped = batch.step in self._bad_steps or not batch.active.any()
        self._version += not skipped
        return StepReport(
            step=batch.step,
            policy_version=self._version,
            skipped=skipped,
            metrics={},
            logprobs_before=batch.behavior_logprobs,
        )

    def run(self, version: int, probes: Sequence[ParityProbe], *, rounding: float) -> SyncReport:
        self.calls.append(f"sync {version}")
        assert probes
        if version == self._sync_fails_at:
            raise WeightSyncError("generator and learner disagree")
        assert self.rollout is not None
        self.generators.version = version
        self.rollout.release(version)
        return SyncReport(gap=version / 1024, drift=version / 8 - rounding)

    def commit(self, outcomes: Outcomes, *, update_id: str, drift: float | None) -> None:
        self.calls.append(f"commit {update_id}")
        self.commits.append(outcomes)
        self.drifts.append(drift)

    def after_step(self, step: int, rollouts: StepRollouts, *, version: int) -> None:
        self.calls.append(f"curriculum {step} at version {version}")

    def save(self, step: int, idle: Callable[[], None]) -> None:
        self.calls.append(f"save {step}")
        before = len(self.generators.seen)
        idle()
        self.generated_while_saving.append(len(self.generators.seen) - before)
        if step in self._unsaved:
            self._unsaved.remove(step)
            raise StorageError("/disk/checkpoints: No space left on device")

    def metrics(self, version: int | None = None) -> Mapping[str, float]:
        """Of the baseline, which is told the version, or of the curriculum."""
        if version is not None:
            self.measured_at.append(version)
        return {}


class Harness:
    """A training loop of real parts around the fakes; three steps of four completions."""

    def __init__(
        self,
        directory: Path,
        parts: FakeParts,
        *,
        reward_of: RewardOf,
        baseline: str = "tracker",
        first_step: int = 0,
        initial_score: Score | None = None,
        max_steps: int = 3,
        eval_every: int = 0,
        eval_at_start: bool = False,
        eval_at_end: bool = False,
        checkpoint_every: int = 0,
        patience_s: float = 0.0,
        pause_s: float = 5.0,
        save: Callable[[int, Callable[[], None]], None] | None = None,
        mask_truncated: bool = False,
        totals_before: Mapping[str, float] | None = None,
    ) -> None:
        self.run_directory = RunDirectory(directory)
        self.printed = io.StringIO()
        self.totals = RunTotals(totals_before or {}, started=time.monotonic())
        parts.scorers = FakeScorers(reward_of)
        service = CompletionService(generators=parts.generators, scorers=parts.scorers)
        parts.rollout = RolloutLoop(
            service=service,
            prompts=_prompts(),
            baseline=FakeBaseline(),
            settings=RolloutSettings(rollouts_per_step=4),
            keep_groups=False,
            seed=0,
            stall_s=5.0,
            check=lambda: self.loop.check(),
        )
        builder = BatchBuilder(
            advantage=AdvantageOptions(baseline=baseline, normalize="none"),
            reward_range=(0.0, 1.0),
            mask_truncated=mask_truncated,
            skip_truncated_evidence=False,
            importance=0.0,
        )
        display = ProgressDisplay(total_steps=3, first_step=0, console=Console(file=self.printed, width=1000))
        self.loop = TrainingLoop(
            max_steps=max_steps,
            evaluation=EvalSettings(every_steps=eval_every, at_start=eval_at_start, at_end=eval_at_end),
            checkpoints=CheckpointSettings(every_steps=checkpoint_every),
            step_timeout_s=5.0,
            rollout=parts.rollout,
            service=service,
            builder=builder,
            learner=parts,
            sync=parts,  # type: ignore[arg-type]
            baseline=parts,  # type: ignore[arg-type]
            curriculum=parts,  # type: ignore[arg-type]
            evaluator=Evaluator(
                service=service,
                problems=list(itertools.islice(_prompts(), 2)),
                sampling=SamplingSettings(),
                settings=EvalSettings(num_samples=1, seed=0),
                stall_s=5.0,
                same_answers=no_two_alike,
            ),
            telemetry=Telemetry(metrics=MetricsLog(self.run_directory), display=display),
            notices=Notices(say=display.say, builder=builder),
            interrupts=parts.interrupts,
            save=save or parts.save,
            max_masked_steps=3,
            unscored=UnscoredWatch(max_unscored_fraction=0.5, patience_s=patience_s, first_pause_s=pause_s),
            totals=self.totals,
            processes=lambda: PROCESSES,
            first_step=first_step,
            initial_score=initial_score,
        )

    def records(self) -> list[dict[str, Any]]:
        """Of the steps, without the evaluations."""
        return [record for record in read_metrics(self.run_directory.metrics_jsonl) if "reward/mean" in record]

    def evaluated_at(self) -> list[int]:
        records = read_metrics(self.run_directory.metrics_jsonl)
        return [record["step"] for record in records if "eval/pass@1" in record]


PROCESSES = [
    ProcessInfo(role="driver", name="driver", node="a", pid=1, host_bytes=7, gpu_bytes=None, node_fraction=0.25),
    ProcessInfo(role="learner", name="learner-0", node="b", pid=1, host_bytes=5, gpu_bytes=3, node_fraction=0.75),
]


def _prompts() -> Iterator[DrawnPrompt]:
    for number in itertools.count():
        prompt = Prompt(row=number, key=f"key-{number}", prompt="p")
        yield DrawnPrompt(group_id=number, prompt=prompt, token_ids=np.array([5], dtype=np.int32))


def right(request: ScoringRequest) -> float:
    return 1.0


def test_the_baseline_learns_after_the_weights_have_arrived(tmp_path: Path) -> None:
    parts = FakeParts()
    Harness(tmp_path, parts, reward_of=right).loop.run()
    assert parts.calls[:4] == ["train 0", "sync 1", "commit step-1", "curriculum 1 at version 1"]
    assert parts.calls[-1] == "save 3"
    assert parts.drifts == [1 / 8, 2 / 8, 3 / 8]
    assert [commit.versions.tolist() for commit in parts.commits] == [[0] * 4, [1] * 4, [2] * 4]
    assert [commit.keys for commit in parts.commits] == [
        tuple(f"key-{4 * step + i}" for i in range(4)) for step in range(3)
    ]


def test_a_skipped_step_teaches_neither_generators_nor_baseline(tmp_path: Path) -> None:
    parts = FakeParts(bad_steps=[1])
    harness = Harness(tmp_path, parts, reward_of=right)
    harness.loop.run()
    assert parts.calls == [
        *("train 0", "sync 1", "commit step-1", "curriculum 1 at version 1"),
        "train 1",
        *("train 2", "sync 2", "commit step-3", "curriculum 3 at version 2"),
        "save 3",
    ]
    assert [record.get("optim/skipped") for record in harness.records()] == [None, 1.0, None]
    assert parts.measured_at == [1, 1, 2], "the baseline is shown as the policy of that step reads it"
    # Its completions are not trained again, nor do they teach the baseline later.
    keys = [key for commit in parts.commits for key in commit.keys]
    assert keys == [f"key-{number}" for number in (0, 1, 2, 3, 8, 9, 10, 11)]


def test_a_step_of_which_all_is_masked_moves_nothing_and_is_evidence_all_the_same(tmp_path: Path) -> None:
    parts = FakeParts(truncated_from=4, bad_steps=[1, 2])
    harness = Harness(tmp_path, parts, reward_of=right, mask_truncated=True)
    harness.loop.run()
    assert parts.calls == [
        *("train 0", "sync 1", "commit step-1", "curriculum 1 at version 1"),
        *("train 1", "commit step-2", "curriculum 2 at version 1"),
        *("train 2", "commit step-3", "curriculum 3 at version 1"),
        "save 3",
    ]
    assert parts.drifts == [1 / 8, 0.0, 0.0], "the policy stood still"
    assert [commit.counts.sum() for commit in parts.commits] == [4, 4, 4]
    account = "Completions: 12 dispatched = 4 trained + 8 dropped (8 masked) + 0 in flight"
    assert account in harness.printed.getvalue()


def test_what_became_of_every_completion_is_in_each_record_and_told_at_the_end(tmp_path: Path) -> None:
    """Step 1 is skipped; of each step the completions 1 (no score) and 2 (masked) of four are not trained."""
    parts = FakeParts(bad_steps=[1], truncated=2)
    harness = Harness(
        tmp_path, parts, reward_of=lambda request: None if request.request_id % 4 == 1 else 1.0, mask_truncated=True
    )
    harness.loop.run()
    account = "Completions: 12 dispatched = 4 trained + 8 dropped (3 unscored, 3 masked, 2 skipped) + 0 in flight"
    assert account in harness.printed.getvalue()
    totals = [
        {name.removeprefix("rollout/").removesuffix("_total"): record[name] for name in record if _of_account(name)}
        for record in harness.records()
    ]
    assert totals == [
        {"dispatched": 4, "trained": 2, "dropped": 2, "dropped_unscored": 1, "dropped_masked": 1, "in_flight": 0},
        {
            **{"dispatched": 8, "trained": 2, "dropped": 6, "in_flight": 0},
            **{"dropped_unscored": 2, "dropped_masked": 2, "dropped_skipped": 2},
        },
        {
            **{"dispatched": 12, "trained": 4, "dropped": 8, "in_flight": 0},
            **{"dropped_unscored": 3, "dropped_masked": 3, "dropped_skipped": 2},
        },
    ]


def _of_account(name: str) -> bool:
    return name == "rollout/in_flight" or (name.startswith("rollout/") and name.endswith("_total"))


def test_a_sync_that_fails_leaves_the_baseline_as_it_was(tmp_path: Path) -> None:
    parts = FakeParts(sync_fails_at=2)
    with pytest.raises(WeightSyncError):
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert parts.calls[-3:] == ["curriculum 1 at version 1", "train 1", "sync 2"]
    assert len(parts.commits) == 1


def test_groups_of_one_fall_back_to_the_tracker_and_that_is_said_once(tmp_path: Path) -> None:
    harness = Harness(tmp_path, FakeParts(), reward_of=right, baseline="group")
    harness.loop.run()
    assert harness.printed.getvalue().count("are alone in their group") == 1
    assert [record["advantage/singletons"] for record in harness.records()] == [4.0] * 3


def test_a_reason_for_no_score_is_told_once_and_counted_every_time(tmp_path: Path) -> None:
    parts = FakeParts()
    harness = Harness(tmp_path, parts, reward_of=lambda request: None if request.request_id % 4 == 1 else 1.0)
    harness.loop.run()
    assert harness.printed.getvalue().count("fake: timeout: after 1 s") == 1
    assert [record["reward/unscored/fake/timeout"] for record in harness.records()] == [1.0] * 3
    assert all(f"key-{number}" not in commit.keys for commit in parts.commits for number in (1, 5, 9))


def test_too_many_without_a_score_stop_the_run_before_it_trains_on_the_rest(tmp_path: Path) -> None:
    parts = FakeParts()
    harness = Harness(tmp_path, parts, reward_of=lambda request: 1.0 if request.request_id % 4 == 1 else None)
    with pytest.raises(UnhealthyTrainingError, match=r"3 of 4 completions .* 3 × fake: timeout"):
        harness.loop.run()
    assert parts.calls == []


def test_the_learners_version_is_the_runs_and_must_follow_it(tmp_path: Path) -> None:
    harness = Harness(tmp_path, FakeParts(bad_steps=[1]), reward_of=right)
    harness.loop.run()
    assert [record["policy_version"] for record in harness.records()] == [1, 1, 2]
    parts = FakeParts(lost_updates=1)
    with pytest.raises(AssertionError, match="the learner is at policy version 0 after a step of version 0"):
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert parts.calls == ["train 0"]


def test_an_interrupt_ends_the_run_after_its_step_with_a_checkpoint(tmp_path: Path) -> None:
    parts = FakeParts(interrupt_at=0)
    harness = Harness(tmp_path, parts, reward_of=right, eval_at_end=True)
    outcome = harness.loop.run()
    assert parts.calls == ["train 0", "sync 1", "commit step-1", "curriculum 1 at version 1", "save 1"]
    assert (outcome.interrupted, outcome.steps, outcome.final) == (True, 1, None)
    assert "SIGTERM: saving step 1" in harness.printed.getvalue()


def test_checkpoints_and_evaluations_come_when_they_are_due(tmp_path: Path) -> None:
    parts = FakeParts()
    harness = Harness(
        tmp_path,
        parts,
        reward_of=lambda request: float(request.request_id != -1),
        max_steps=7,
        checkpoint_every=2,
        eval_every=3,
        eval_at_start=True,
        eval_at_end=True,
    )
    outcome = harness.loop.run()
    assert [call for call in parts.calls if call.startswith("save")] == ["save 2", "save 4", "save 6", "save 7"]
    assert harness.evaluated_at() == [0, 3, 6, 7]
    assert outcome.initial_score == outcome.final == Score(value=0.5, correct=1, total=2)
    assert (outcome.interrupted, outcome.steps) == (False, 7)
    assert sum(commit.counts.sum() for commit in parts.commits) == 28, "an evaluation teaches the baseline nothing"


def test_a_checkpoint_that_fails_costs_a_warning_and_the_next_one_is_tried(tmp_path: Path) -> None:
    parts = FakeParts(unsaved=[2, 6])
    harness = Harness(tmp_path, parts, reward_of=right, max_steps=6, checkpoint_every=2)
    assert harness.loop.run().steps == 6
    saves = [call for call in parts.calls if call.startswith("save")]
    assert saves == ["save 2", "save 4", "save 6", "save 6"], "the last one is tried again before the end"
    assert "Warning: step 2 IS NOT SAVED, training goes on" in harness.printed.getvalue()
    assert "/disk/checkpoints: No space left on device" in harness.printed.getvalue()
    timed = [record["step"] for record in harness.records() if "time/checkpoint" in record]
    assert timed == [3, 5]


def test_a_run_whose_last_checkpoint_cannot_be_written_fails(tmp_path: Path) -> None:
    harness = Harness(tmp_path, FakeParts(unsaved=[3]), reward_of=right)
    with pytest.raises(StorageError, match="No space left"):
        harness.loop.run()


def test_prompts_are_generated_while_a_checkpoint_is_written(tmp_path: Path) -> None:
    parts = FakeParts()
    Harness(tmp_path, parts, reward_of=right, max_steps=3, checkpoint_every=1).loop.run()
    assert parts.generated_while_saving == [4, 4, 0]


def test_an_evaluation_that_an_interrupt_cut_off_is_made_on_resume(tmp_path: Path) -> None:
    score = Score(value=0.25, correct=1, total=4)
    harness = Harness(
        tmp_path, FakeParts(), reward_of=right, first_step=3, initial_score=score, max_steps=7, eval_every=3
    )
    harness.loop.run()
    assert harness.evaluated_at() == [3, 6]


def test_a_resumed_run_neither_evaluates_nor_saves_again_before_its_first_step(tmp_path: Path) -> None:
    parts, score = FakeParts(), Score(value=0.25, correct=1, total=4)
    harness = Harness(
        tmp_path, parts, reward_of=right, first_step=3, initial_score=score, eval_at_start=True, checkpoint_every=3
    )
    outcome = harness.loop.run()
    assert parts.calls == []
    assert harness.evaluated_at() == []
    assert (outcome.steps, outcome.initial_score) == (3, score)


def test_speed_is_what_a_step_made_by_the_time_it_took(tmp_path: Path) -> None:
    harness = Harness(tmp_path, FakeParts(), reward_of=right)
    harness.loop.run()
    for step, record in enumerate(harness.records()):
        tokens = sum(len(tokens_of(4 * step + i)) for i in range(4))
        assert record["throughput/tokens_per_second"] * record["time/step"] == pytest.approx(tokens)
        assert record["throughput/samples_per_second"] * record["time/step"] == pytest.approx(4)


def test_replaced_processes_are_counted_in_the_step_that_lost_them(tmp_path: Path) -> None:
    parts = FakeParts()

    def lose_some(request: ScoringRequest) -> float:
        if request.request_id == 5:
            parts.generators.replacements += ["died", "stuck"]
            parts.scorers.restarts += 1
        return 1.0

    harness = Harness(tmp_path, parts, reward_of=lose_some)
    harness.loop.run()
    assert [record["rollout/generator_replacements"] for record in harness.records()] == [0.0, 2.0, 0.0]
    assert [record["reward/scorer_restarts"] for record in harness.records()] == [0.0, 1.0, 0.0]


def test_a_step_says_what_processes_and_engines_came_to_and_an_evaluation_is_not_counted_in(tmp_path: Path) -> None:
    harness = Harness(tmp_path, FakeParts(), reward_of=right, eval_every=1, eval_at_start=True)
    harness.loop.run()
    for record in harness.records():
        assert record["memory/driver_host"] == 7.0
        assert (record["memory/learner_host"], record["memory/learner_gpu"]) == (5.0, 3.0)
        assert record["memory/node_fraction"] == 0.75
        assert record["engine/kv_usage"] == 0.25
        assert (record["engine/waiting"], record["engine/preemptions"]) == (0.5, 3.0)
        assert record["engine/running"] == 4.0, "those of the step, without the two of the evaluation before it"


def test_totals_and_wall_time_go_on_where_an_earlier_part_of_the_run_ended(tmp_path: Path) -> None:
    before = {"total/completions": 100.0, "total/tokens": 1000.0, "time/wall": 500.0, "reward/mean": 0.5}
    harness = Harness(tmp_path, FakeParts(), reward_of=right, totals_before=before, eval_at_end=True)
    harness.loop.run()
    steps = harness.records()
    assert [record["total/completions"] for record in steps] == [104.0, 108.0, 112.0]
    tokens = [sum(len(tokens_of(number)) for number in range(4 * step)) for step in (1, 2, 3)]
    assert [record["total/tokens"] for record in steps] == [1000.0 + number for number in tokens]
    times = [record["time/wall"] for record in read_metrics(harness.run_directory.metrics_jsonl)]
    assert len(times) == 4 and times == sorted(times)
    assert times[0] > 500.0 and times[-1] < 500.0 + 60.0
    assert all(abs(record["time/at"] - time.time()) < 60.0 for record in steps)
