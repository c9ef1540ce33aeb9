"""From a step's completions to the learner's batch, the baseline's evidence and the metrics."""

from __future__ import annotations

import numpy as np
import pytest

from bolt_ray.core.advantages import AdvantageOptions
from bolt_ray.core.records import Completion, DrawnPrompt, Prompt, RolloutRequest, ScoredCompletion, UnscoredCompletion
from bolt_ray.training.batch import BatchBuilder
from bolt_ray.training.rollout import StepRollouts

BUILDER = BatchBuilder(
    advantage=AdvantageOptions(normalize="none"),
    reward_range=(0.0, 2.0),
    mask_truncated=True,
    skip_truncated_evidence=False,
)


def completion(key: str, *, tokens: int, v_hat: float = 0.5, version: int = 3, truncated: bool = False) -> Completion:
    drawn = DrawnPrompt(
        draw_id=0, prompt=Prompt(row=0, key=key, prompt=key), token_ids=np.array([7, 8], dtype=np.int32)
    )
    request = RolloutRequest(
        request_id=0, drawn=drawn, sample_index=0, v_hat=v_hat, n_eff=2.0, policy_version=version, seed=0
    )
    return Completion(
        request=request,
        token_ids=np.arange(tokens, dtype=np.int32),
        logprobs=np.full(tokens, -0.5, dtype=np.float32),
        text="",
        truncated=truncated,
        oldest_version=version,
        newest_version=version,
    )


def scored(key: str, reward: float, *, shaping: float = 0.0, tokens: int = 2, **more: object) -> ScoredCompletion:
    return ScoredCompletion(
        completion=completion(key, tokens=tokens, **more),  # type: ignore[arg-type]
        reward=reward + shaping,
        tracker_reward=reward,
        parts={"own": reward},
    )


def rollouts(*items: ScoredCompletion, **more: tuple[object, ...]) -> StepRollouts:
    fields: dict[str, tuple[object, ...]] = {"unscored": (), "evidence_only": (), "dropped": ()}
    return StepRollouts(trainable=items, refilled=0, **(fields | more))  # type: ignore[arg-type]


def test_the_batch_is_ragged_and_in_order() -> None:
    batch, _ = BUILDER.build(rollouts(scored("a", 2.0, tokens=3), scored("b", 0.0, tokens=1)), step=4)
    assert batch.step == 4
    assert batch.token_ids.tolist() == [7, 8, 0, 1, 2, 7, 8, 0]
    assert batch.prompt_lengths.tolist() == [2, 2]
    assert batch.completion_lengths.tolist() == [3, 1]
    assert batch.behaviour_logprobs.tolist() == [-0.5] * 4
    # r̃ = reward / 2, minus v̂ = 0.5
    assert batch.advantages.tolist() == pytest.approx([0.5, -0.5])


def test_shaping_moves_the_advantage_and_not_the_evidence() -> None:
    step = rollouts(scored("a", 2.0, shaping=-0.5))
    batch, _ = BUILDER.build(step, step=0)
    assert batch.advantages.tolist() == pytest.approx([0.25])
    assert BUILDER.evidence(step).reward_sums.tolist() == [1.0]


def test_truncated_sequences_leave_the_loss() -> None:
    batch, _ = BUILDER.build(rollouts(scored("a", 2.0), scored("b", 2.0, truncated=True)), step=0)
    assert batch.active.tolist() == [True, False]


def test_evidence_is_summed_per_prompt_and_version() -> None:
    step = rollouts(scored("a", 2.0), scored("a", 0.0), scored("b", 1.0), evidence_only=(scored("a", 2.0, version=2),))
    evidence = BUILDER.evidence(step)
    assert evidence.keys == ("a", "b", "a")
    assert evidence.reward_sums.tolist() == [1.0, 0.5, 1.0]
    assert evidence.counts.tolist() == [2, 1, 1]
    assert evidence.versions.tolist() == [3, 3, 2]


def test_truncated_completions_can_be_no_evidence() -> None:
    builder = BatchBuilder(
        advantage=AdvantageOptions(normalize="none"),
        reward_range=(0.0, 1.0),
        mask_truncated=False,
        skip_truncated_evidence=True,
    )
    evidence = builder.evidence(rollouts(scored("a", 1.0, truncated=True), scored("b", 1.0)))
    assert evidence.keys == ("b",)


def test_metrics_of_a_step() -> None:
    lost = UnscoredCompletion(completion=completion("c", tokens=2), reason="own: timeout")
    step = rollouts(scored("a", 2.0, v_hat=0.75), scored("b", 0.0, v_hat=0.25, version=2), unscored=(lost,))
    _, output = BUILDER.build(step, step=0)
    metrics = BUILDER.metrics(step, output, version=4)
    assert metrics["reward/mean"] == 1.0
    assert metrics["reward/unscored_fraction"] == pytest.approx(1 / 3)
    assert metrics["baseline/brier"] == pytest.approx(0.0625)
    # Var(r̃ − v̂) = Var(±.25) = .0625, Var(r̃) = .25
    assert metrics["baseline/variance_reduction"] == pytest.approx(0.75)
    assert (metrics["policy/staleness_mean"], metrics["policy/staleness_max"]) == (1.5, 2.0)
    assert metrics["reward/part/own"] == 1.0
    assert metrics["reward/unscored/own/timeout"] == 1.0


def test_what_is_undefined_is_left_out() -> None:
    step = rollouts(scored("a", 2.0), scored("b", 2.0))
    _, output = BUILDER.build(step, step=0)
    assert "baseline/variance_reduction" not in BUILDER.metrics(step, output, version=3)
