"""From a step's completions to the learner's batch, the baseline's outcomes and the metrics."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from bolt_ray.core.advantages import AdvantageOptions
from bolt_ray.core.records import Prompt, ScoredRollout, UnscoredReason, UnscoredRollout
from bolt_ray.training.batch import MAX_IMPORTANCE, BatchBuilder
from bolt_ray.training.rollout import StepRollouts

BUILDER = BatchBuilder(
    advantage=AdvantageOptions(normalize="none"),
    reward_range=(0.0, 2.0),
    mask_truncated=True,
    skip_truncated_evidence=False,
    importance=0.0,
)


def scored(
    key: str,
    reward: float,
    *,
    shaping: float = 0.0,
    tokens: int = 2,
    request_id: int = 0,
    group_id: int = 0,
    v_hat: float = 0.5,
    n_eff: float = 2.0,
    last_version: int = -1,
    version: int = 3,
    truncated: bool = False,
    draw_weight: float = 1.0,
) -> ScoredRollout:
    """Its completion is ``tokens`` long, with token ids 0, 1, … and log-probs that count down from -1 - request_id."""
    return ScoredRollout(
        request_id=request_id,
        token_ids=np.arange(tokens, dtype=np.int32),
        logprobs=-np.arange(tokens, dtype=np.float32) / 8 - 1 - request_id,
        text="",
        truncated=truncated,
        oldest_version=version,
        newest_version=version + 1,
        reward=reward + shaping,
        tracker_reward=reward,
        parts={"own": reward},
        prompt=Prompt(row=0, key=key, prompt=key),
        prompt_token_ids=np.array([70 + request_id, 80], dtype=np.int32),
        group_id=group_id,
        sample_index=0,
        v_hat=v_hat,
        n_eff=n_eff,
        last_version=last_version,
        policy_version=version,
        draw_weight=draw_weight,
    )


def unscored(kind: str) -> UnscoredRollout:
    return UnscoredRollout(
        request_id=9,
        token_ids=np.arange(2, dtype=np.int32),
        logprobs=np.zeros(2, dtype=np.float32),
        text="",
        truncated=False,
        oldest_version=3,
        newest_version=3,
        reason=UnscoredReason(reward="own", kind=kind, detail="after 3 s"),
        prompt=Prompt(row=2, key="c", prompt="c"),
        group_id=2,
        sample_index=0,
        v_hat=0.5,
        last_version=-1,
        policy_version=3,
    )


def rollouts(*items: ScoredRollout, **more: tuple[object, ...]) -> StepRollouts:
    fields: dict[str, tuple[object, ...]] = {"unscored": (), "baseline_only": (), "dropped": ()}
    return StepRollouts(trainable=items, refilled=0, **(fields | more))  # type: ignore[arg-type]


def test_the_batch_is_ragged_and_in_order() -> None:
    step = rollouts(scored("a", 2.0, tokens=3), scored("b", 0.0, tokens=1, request_id=5))
    batch, _ = BUILDER.build(step, step=4)
    assert batch.step == 4
    assert batch.token_ids.tolist() == [70, 80, 0, 1, 2, 75, 80, 0]
    assert batch.prompt_lengths.tolist() == [2, 2]
    assert batch.completion_lengths.tolist() == [3, 1]
    assert batch.behavior_logprobs.tolist() == [-1.0, -1.125, -1.25, -6.0]


def test_every_completion_has_its_own_baseline() -> None:
    items = [
        scored("a", 2.0, v_hat=0.25, n_eff=1.0, request_id=0, group_id=11),
        scored("a", 1.0, v_hat=0.25, n_eff=1.0, request_id=1, group_id=11),
        scored("b", 0.0, v_hat=0.75, n_eff=4.0, request_id=2, group_id=13),
    ]
    batch, _ = BUILDER.build(rollouts(*items), step=0)
    inputs = batch.advantage_inputs
    assert inputs is not None
    assert inputs.rewards.tolist() == [1.0, 0.5, 0.0]
    assert inputs.v_hat.tolist() == [0.25, 0.25, 0.75]
    assert inputs.n_eff.tolist() == [1.0, 1.0, 4.0]
    assert inputs.group_ids.tolist() == [11, 11, 13]
    # r̃ = reward / 2, minus v̂
    assert batch.advantages.tolist() == pytest.approx([0.75, 0.25, -0.75])


def test_completions_of_one_draw_are_one_group() -> None:
    builder = BatchBuilder(
        advantage=AdvantageOptions(baseline="group", normalize="none"),
        reward_range=(0.0, 1.0),
        mask_truncated=False,
        skip_truncated_evidence=False,
        importance=0.0,
    )
    items = [scored("a", float(i == 0), request_id=i, group_id=i // 2) for i in range(4)]
    batch, output = builder.build(rollouts(*items), step=0)
    assert output.singletons == 0
    # Against the mean of its own group: (1, 0) and (0, 0).
    assert batch.advantages.tolist() == pytest.approx([0.5, -0.5, 0.0, 0.0])


def test_shaping_moves_the_advantage_and_not_the_outcomes() -> None:
    step = rollouts(scored("a", 2.0, shaping=-0.5))
    batch, _ = BUILDER.build(step, step=0)
    assert batch.advantages.tolist() == pytest.approx([0.25])
    assert batch.rewards.tolist() == [1.5]
    assert BUILDER.outcomes(step).reward_sums.tolist() == [1.0]


def test_truncated_sequences_leave_the_loss() -> None:
    batch, _ = BUILDER.build(rollouts(scored("a", 2.0), scored("b", 2.0, truncated=True)), step=0)
    assert batch.active.tolist() == [True, False]


def test_outcomes_are_summed_per_prompt_and_version() -> None:
    step = rollouts(scored("a", 2.0), scored("a", 0.0), scored("b", 1.0), baseline_only=(scored("a", 2.0, version=2),))
    outcomes = BUILDER.outcomes(step)
    assert outcomes.keys == ("a", "b", "a")
    assert outcomes.reward_sums.tolist() == [1.0, 0.5, 1.0]
    assert outcomes.counts.tolist() == [2, 1, 1]
    assert outcomes.versions.tolist() == [3, 3, 2]


def test_truncated_completions_can_be_no_outcomes() -> None:
    builder = BatchBuilder(
        advantage=AdvantageOptions(normalize="none"),
        reward_range=(0.0, 1.0),
        mask_truncated=False,
        skip_truncated_evidence=True,
        importance=0.0,
    )
    outcomes = builder.outcomes(rollouts(scored("a", 1.0, truncated=True), scored("b", 1.0)))
    assert outcomes.keys == ("b",)


def test_metrics_of_a_step() -> None:
    step = rollouts(
        scored("a", 2.0, v_hat=0.75), scored("b", 0.0, v_hat=0.25, version=2), unscored=(unscored("timeout"),)
    )
    _, output = BUILDER.build(step, step=0)
    metrics = BUILDER.metrics(step, output, version=4)
    assert metrics["reward/mean"] == 1.0
    assert metrics["reward/unscored_fraction"] == pytest.approx(1 / 3)
    assert metrics["baseline/brier"] == pytest.approx(0.0625)
    # Var(r̃ − v̂) = Var(±.25) = .0625, Var(r̃) = .25
    assert metrics["baseline/variance_reduction"] == pytest.approx(0.75)
    assert "baseline/variance_reduction_seen" not in metrics and "baseline/versions_between_visits" not in metrics
    assert (metrics["policy/staleness_mean"], metrics["policy/staleness_max"]) == (1.5, 2.0)
    assert metrics["reward/part/own"] == 1.0
    assert metrics["reward/unscored/own/timeout"] == 1.0
    # √(¾·¼) for both
    assert metrics["curriculum/drawn_uncertainty"] == pytest.approx(math.sqrt(3) / 4)


def test_what_is_undefined_is_left_out() -> None:
    step = rollouts(scored("a", 2.0), scored("b", 2.0))
    _, output = BUILDER.build(step, step=0)
    assert "baseline/variance_reduction" not in BUILDER.metrics(step, output, version=3)


def test_rewards_outside_their_range_are_cut_for_the_baseline_and_counted() -> None:
    """The range is 0 to 2: right with the format 1.25, right 1, the format alone .25, neither 0."""
    items = [scored(key, reward, v_hat=0.0, request_id=i) for i, (key, reward) in enumerate([("a", 2.5), ("b", 2.0)])]
    _, output = BUILDER.build(rollouts(*items), step=0)
    assert BUILDER.metrics(rollouts(*items), output, version=4)["reward/clipped_fraction"] == 0.5
    assert BUILDER.outcomes(rollouts(*items)).reward_sums.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("baseline", "expected"), [("tracker", [1.0, 1.0]), ("group", [0.125, -0.125])])
def test_a_group_compares_rewards_that_are_not_cut(baseline: str, expected: list[float]) -> None:
    builder = dataclasses.replace(BUILDER, advantage=AdvantageOptions(baseline=baseline, normalize="none"))
    items = [scored("a", reward, v_hat=0.0, request_id=i, group_id=7) for i, reward in enumerate([2.5, 2.0])]
    batch, _ = builder.build(rollouts(*items), step=0)
    assert batch.advantages.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(("importance", "expected"), [(0.0, [0.5, 0.25]), (0.5, [0.25, 0.5]), (1.0, [0.125, 1.0])])
def test_what_is_drawn_more_often_can_count_less(importance: float, expected: list[float]) -> None:
    """Weights of 4 and 1/4 times the mean; the advantages 1/2 and 1/4."""
    builder = dataclasses.replace(BUILDER, importance=importance)
    items = [scored("a", 2.0, draw_weight=4.0), scored("b", 1.5, request_id=1, draw_weight=0.25)]
    batch, output = builder.build(rollouts(*items), step=0)
    assert batch.advantages.tolist() == pytest.approx(expected)
    # f = 1/4 and 4: (17/4)² / (2 · 257/16)
    metrics = builder.metrics(rollouts(*items), output, version=4)
    assert metrics["curriculum/draw_ess"] == pytest.approx((17 / 4) ** 2 / (2 * 257 / 16))


def test_a_prompt_hardly_ever_drawn_is_not_the_whole_step() -> None:
    builder = dataclasses.replace(BUILDER, importance=1.0)
    batch, _ = builder.build(rollouts(scored("a", 2.0, draw_weight=1e-9)), step=0)
    assert batch.advantages.tolist() == [0.5 * MAX_IMPORTANCE]


def test_right_answers_found_another_way_earn_a_bonus_and_the_baseline_does_not_see_it() -> None:
    own_way = scored("a", 2.0, tokens=8, group_id=1)
    short = scored("b", 2.0, tokens=4, group_id=1)  # what `own_way` begins with
    wrong = dataclasses.replace(scored("c", 0.0, group_id=1), token_ids=np.array([7, 7, 7, 7], dtype=np.int32))
    step = rollouts(own_way, short, wrong)
    options = AdvantageOptions(normalize="none", diversity_bonus=0.5)
    builder = dataclasses.replace(BUILDER, advantage=options)
    batch, output = builder.build(step, step=0)
    # Runs of own_way: one of five is shared with one of two others.
    assert batch.advantages.tolist() == pytest.approx([0.5 + 0.5 * (4 + 0.5) / 5, 0.5 + 0.5 * 0.5, -0.5])
    assert builder.metrics(step, output, version=3)["reward/diversity"] == pytest.approx((0.9 + 0.5 + 1.0) / 3)
    assert builder.outcomes(step).reward_sums.tolist() == [1.0, 1.0, 0.0]
    alone = dataclasses.replace(builder, advantage=dataclasses.replace(options, diversity_within="group"))
    apart = rollouts(own_way, dataclasses.replace(short, group_id=2), dataclasses.replace(wrong, group_id=3))
    assert alone.build(apart, step=0)[0].advantages.tolist() == pytest.approx([0.5, 0.5, -0.5])
