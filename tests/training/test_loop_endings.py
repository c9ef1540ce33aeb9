"""What a training loop saves when something ends it, and what it waits out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.fakes import FakeGenerators
from training.test_loop import FakeParts, Harness, right

from bolt_ray.core.errors import LearnerLostError, RunError, StallError, UnhealthyTrainingError, WeightSyncError
from bolt_ray.core.records import Completion


class FailingGenerators(FakeGenerators):
    """Raises ``error`` when it is polled, once ``fails`` says so."""

    error: Exception = RunError("9 generators had to be replaced")

    def __init__(self, fails: Callable[[FailingGenerators], bool]) -> None:
        super().__init__()
        self._fails = fails

    def poll(self, timeout_s: float) -> list[Completion]:
        if self._fails(self):
            raise self.error
        return super().poll(timeout_s)


def saves(parts: FakeParts) -> list[str]:
    return [call for call in parts.calls if call.startswith("save")]


def test_an_error_between_two_steps_is_raised_after_the_last_step_is_saved(tmp_path: Path) -> None:
    parts = FakeParts()
    parts.generators = FailingGenerators(lambda pool: len(pool.seen) > 8)
    harness = Harness(tmp_path, parts, reward_of=right)
    with pytest.raises(RunError, match="9 generators"):
        harness.loop.run()
    assert parts.calls[-1] == "save 2"
    assert "Saving step 2 first: RunError: 9 generators" in harness.printed.getvalue()
    # The requests of the third step are in the state that was saved.
    assert parts.rollout is not None
    assert [request["request_id"] for request in parts.rollout.state_dict()["in_flight"]] == [8, 9, 10, 11]


def test_a_checkpoint_that_fails_then_hides_no_error(tmp_path: Path) -> None:
    parts = FakeParts()
    parts.generators = FailingGenerators(lambda pool: len(pool.seen) > 4)

    def full(step: int) -> None:
        raise OSError("no space left on device")

    harness = Harness(tmp_path, parts, reward_of=right, save=full)
    with pytest.raises(RunError, match="9 generators"):
        harness.loop.run()


def test_an_error_before_the_first_step_has_nothing_to_save(tmp_path: Path) -> None:
    parts = FakeParts()
    parts.generators = FailingGenerators(lambda pool: True)
    with pytest.raises(RunError):
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert parts.calls == []


def test_an_error_of_generation_waits_for_the_step_under_way(tmp_path: Path) -> None:
    parts = FakeParts()
    training: list[int] = []
    parts.while_training = training.append
    parts.generators = FailingGenerators(lambda pool: training[-1:] == [1])
    with pytest.raises(RunError, match="9 generators"):
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert parts.calls[-5:] == ["train 1", "sync 2", "commit step-2", "curriculum 2 at version 2", "save 2"]


def test_the_first_error_is_told_where_it_leads_to_another(tmp_path: Path) -> None:
    parts = FakeParts(sync_fails_at=2)
    training: list[int] = []
    parts.while_training = training.append
    parts.generators = FailingGenerators(lambda pool: training[-1:] == [1])
    with pytest.raises(RunError, match="9 generators") as raised:
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert isinstance(raised.value.__cause__, WeightSyncError)
    assert saves(parts) == [], "generators and baseline are not where the learner is"


def test_a_step_half_done_is_not_saved(tmp_path: Path) -> None:
    parts = FakeParts(sync_fails_at=2)
    with pytest.raises(WeightSyncError):
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert saves(parts) == []


def test_a_lost_learner_is_asked_for_no_checkpoint(tmp_path: Path) -> None:
    def die(step: int) -> None:
        if step == 2:
            raise LearnerLostError("rank 0 died")

    parts = FakeParts()
    parts.while_training = die
    with pytest.raises(LearnerLostError):
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert saves(parts) == []


def test_a_learner_whose_node_is_taken_away_is_saved_and_given_up(tmp_path: Path) -> None:
    parts = FakeParts()

    def notice(step: int) -> None:
        if step == 1:
            parts.leaves = "the cluster takes away the node of learner-0"

    parts.while_training = notice
    with pytest.raises(LearnerLostError, match="takes away the node of learner-0"):
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert parts.calls[-2:] == ["curriculum 2 at version 2", "save 2"]


def test_notice_in_a_long_step_is_heeded_at_once(tmp_path: Path) -> None:
    parts = FakeParts()

    class Slow(FakeGenerators):
        """Never answers the third step, during which the notice comes."""

        def poll(self, timeout_s: float) -> list[Completion]:
            if len(self.seen) > 8:
                parts.leaves = "the cluster takes away the node of learner-0"
                return []
            return super().poll(timeout_s)

    parts.generators = Slow()
    with pytest.raises(LearnerLostError):
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert parts.calls[-1] == "save 2"


def test_steps_of_which_all_is_masked_are_no_training(tmp_path: Path) -> None:
    parts = FakeParts()

    class Cut(FakeGenerators):
        """Every completion from the second step on reaches the length limit."""

        def completed(self, request: object, *, truncated: bool = False) -> Completion:
            return super().completed(request, truncated=request.request_id >= 4)  # type: ignore[arg-type,attr-defined]

    parts.generators = Cut()
    with pytest.raises(UnhealthyTrainingError, match=r"in 3 steps in a row .* masked.*sampling.max_new_tokens"):
        Harness(tmp_path, parts, reward_of=right, max_steps=9, mask_truncated=True).loop.run()
    assert saves(parts) == ["save 4"]


def test_a_step_without_rewards_is_made_again_with_the_same_requests(tmp_path: Path) -> None:
    parts = FakeParts()
    failures = 2 * 4

    def away_for_a_while(request: object) -> float | None:
        nonlocal failures
        if len(parts.generators.seen) > 4 and failures:
            failures -= 1
            return None
        return 1.0

    harness = Harness(tmp_path, parts, reward_of=away_for_a_while, patience_s=0.02, pause_s=0.01)
    assert harness.loop.run().steps == 3
    asked = [request.request_id for request in parts.generators.seen]
    assert asked == [*range(4), *range(4, 8), *range(4, 8), *range(4, 8), *range(8, 12)]
    assert len({(request.request_id, request.seed) for request in parts.generators.seen}) == 12
    assert [commit.keys for commit in parts.commits] == [
        tuple(f"key-{4 * step + i}" for i in range(4)) for step in range(3)
    ]
    assert "4 of 4 completions got no reward; all are made again" in harness.printed.getvalue()


def test_stalls_are_saved_too(tmp_path: Path) -> None:
    parts = FakeParts()
    parts.generators = FailingGenerators(lambda pool: len(pool.seen) > 4)
    parts.generators.error = StallError("no completion arrived for 5 s")
    with pytest.raises(StallError):
        Harness(tmp_path, parts, reward_of=right).loop.run()
    assert saves(parts) == ["save 1"]
