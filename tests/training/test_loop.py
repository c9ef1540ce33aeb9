"""The order of a step, and what a step that fails or is skipped leaves undone."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from support.fakes import FakeGenerators, FakeScorers, RewardOf

from bolt_ray.core.advantages import AdvantageOptions
from bolt_ray.core.errors import UnhealthyTrainingError, WeightSyncError
from bolt_ray.core.records import DrawnPrompt, Prompt, RolloutRequest, StepReport, TrainingBatch
from bolt_ray.rewards.unscored import check_unscored
from bolt_ray.training.batch import BatchBuilder
from bolt_ray.training.completions import CompletionService
from bolt_ray.training.interrupts import InterruptFlag
from bolt_ray.training.loop import LoopSettings, TrainingLoop
from bolt_ray.training.rollout import RolloutLoop, StepRollouts
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry import MetricsLog, ProgressDisplay, read_metrics
from bolt_ray.training.weight_sync import Probe, SyncReport

DRIFT = 0.125


class FakeParts:
    """Learner, weight sync, baseline and curriculum at once; ``calls`` says who was asked, in which order."""

    def __init__(self, *, bad_steps: Sequence[int] = (), sync_fails_at: int | None = None) -> None:
        self.calls: list[str] = []
        self.commits: list[dict[str, Any]] = []
        self.rollout: RolloutLoop | None = None
        self._bad_steps, self._sync_fails_at = bad_steps, sync_fails_at

    def train(self, batch: TrainingBatch, *, timeout_s: float, idle: Callable[[], None]) -> StepReport:
        self.calls.append(f"train {batch.step}")
        idle()
        before = np.full(int(batch.completion_lengths.sum()), -1.0, dtype=np.float32)
        return StepReport(step=batch.step, skipped=batch.step in self._bad_steps, metrics={}, logprobs_before=before)

    def run(self, version: int, probes: Sequence[Probe]) -> SyncReport:
        self.calls.append(f"sync {version}")
        assert probes
        if version == self._sync_fails_at:
            raise WeightSyncError("generator and learner disagree")
        assert self.rollout is not None
        self.rollout.release(version)
        return SyncReport(gap=1e-6, drift=DRIFT)

    def commit(self, **outcomes: Any) -> None:
        self.calls.append(f"commit {outcomes['update_id']}")
        self.commits.append(outcomes)

    def after_step(self, step: int, rollouts: StepRollouts, *, version: int) -> None:
        self.calls.append(f"curriculum {step} at version {version}")

    def read(self, keys: Sequence[str], version: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(keys), 0.5), np.full(len(keys), 2.0)

    def metrics(self) -> Mapping[str, float]:
        return {}


class Harness:
    """A training loop of real parts around the fakes; four completions a step."""

    def __init__(self, directory: Path, parts: FakeParts, *, reward_of: RewardOf, baseline: str = "tracker") -> None:
        self.run_directory = RunDirectory(directory)
        self.printed = io.StringIO()
        service = CompletionService(generators=FakeGenerators(), scorers=FakeScorers(reward_of))
        parts.rollout = RolloutLoop(
            service=service,
            prompts=_prompts(),
            baseline=parts,
            rollouts_per_step=4,
            max_staleness=0,
            keep_groups=False,
            dynamic_sampling_rounds=0,
            seed=0,
            stall_s=5.0,
        )
        self.loop = TrainingLoop(
            settings=LoopSettings(
                max_steps=3,
                eval_every=0,
                eval_at_start=False,
                eval_at_end=False,
                checkpoint_every=0,
                step_timeout_s=5.0,
            ),
            rollout=parts.rollout,
            service=service,
            builder=BatchBuilder(
                advantage=AdvantageOptions(baseline=baseline, normalize="none"),
                reward_range=(0.0, 1.0),
                mask_truncated=False,
                skip_truncated_evidence=False,
            ),
            learner=parts,
            sync=parts,  # type: ignore[arg-type]
            baseline=parts,  # type: ignore[arg-type]
            curriculum=parts,  # type: ignore[arg-type]
            evaluator=None,
            metrics=MetricsLog(self.run_directory),
            display=ProgressDisplay(total_steps=3, first_step=0, console=Console(file=self.printed, width=1000)),
            interrupts=InterruptFlag(),
            save=lambda step: parts.calls.append(f"save {step}"),
            watch_scores=_watch,
        )

    def records(self) -> list[dict[str, Any]]:
        return read_metrics(self.run_directory.metrics_jsonl)


def _watch(*, num_scored: int, reasons: Mapping[str, int]) -> None:
    check_unscored(num_scored=num_scored, reasons=reasons, max_unscored_fraction=0.5)


def _prompts() -> Iterator[DrawnPrompt]:
    for number in itertools.count():
        prompt = Prompt(row=number, key=f"key-{number}", prompt="p")
        yield DrawnPrompt(draw_id=number, prompt=prompt, token_ids=np.array([5], dtype=np.int32))


def right(request: RolloutRequest) -> float:
    return 1.0


def test_the_baseline_learns_after_the_weights_have_arrived(tmp_path: Path) -> None:
    parts = FakeParts()
    Harness(tmp_path, parts, reward_of=right).loop.run()
    assert parts.calls[:4] == ["train 0", "sync 1", "commit step-1", "curriculum 1 at version 1"]
    assert parts.calls[-1] == "save 3"
    assert [commit["drift"] for commit in parts.commits] == [DRIFT] * 3
    assert [commit["versions"].tolist() for commit in parts.commits] == [[0] * 4, [1] * 4, [2] * 4]


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
    # Its completions are not trained again, nor do they teach the baseline later.
    keys = [key for commit in parts.commits for key in commit["keys"]]
    assert keys == [f"key-{number}" for number in (0, 1, 2, 3, 8, 9, 10, 11)]


def test_a_sync_that_fails_leaves_the_baseline_as_it_was(tmp_path: Path) -> None:
    parts = FakeParts(sync_fails_at=2)
    with pytest.raises(WeightSyncError):
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert [commit["update_id"] for commit in parts.commits] == ["step-1"]
    assert parts.calls[-1] == "sync 2"


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
    assert all(f"key-{number}" not in commit["keys"] for commit in parts.commits for number in (1, 5, 9))


def test_too_many_without_a_score_stop_the_run_before_it_trains_on_the_rest(tmp_path: Path) -> None:
    parts = FakeParts()
    harness = Harness(tmp_path, parts, reward_of=lambda request: 1.0 if request.request_id % 4 == 1 else None)
    with pytest.raises(UnhealthyTrainingError, match=r"3 of 4 completions .* 3 × fake: timeout"):
        harness.loop.run()
    assert parts.calls == []
