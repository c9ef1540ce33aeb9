"""Advantages: written numbers for every baseline and normalization, inactive and degenerate batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bolt_ray.core.advantages import (
    BASELINES,
    NORMALIZATIONS,
    AdvantageOutput,
    compute_advantages,
    scale_rewards,
)

NAN = float("nan")


def advantages(
    rewards: list[float],
    *,
    v_hat: list[float] | None = None,
    n_eff: list[float] | None = None,
    groups: list[int] | None = None,
    lengths: list[int] | None = None,
    baseline: str = "tracker",
    normalize: str = "none",
    clip: float | None = None,
    active: list[bool] | None = None,
) -> AdvantageOutput:
    count = len(rewards)
    return compute_advantages(
        rewards,
        v_hat if v_hat is not None else [0.5] * count,
        n_eff if n_eff is not None else [8.0] * count,
        groups,
        lengths if lengths is not None else [1] * count,
        baseline=baseline,
        normalize=normalize,
        clip=clip,
        active=active,
    )


def test_tracker_subtracts_the_baseline_read_at_dispatch() -> None:
    out = advantages([1.0, 0.0, 1.0], v_hat=[0.75, 0.25, 0.5])
    np.testing.assert_allclose(out.advantages, [0.25, -0.25, 0.5])
    assert out.advantages.dtype == np.float32
    assert (out.singletons, out.zero_variance_groups) == (0, 0)


def test_group_subtracts_the_group_mean() -> None:
    out = advantages([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], groups=[7, 7, 7, 7, 2, 2], baseline="group")
    np.testing.assert_allclose(out.advantages, [0.75, -0.25, -0.25, -0.25, 0.5, -0.5])


def test_group_divided_by_its_own_std() -> None:
    out = advantages([1.0, 0.0, 0.0, 0.0], groups=[0] * 4, baseline="group", normalize="group")
    np.testing.assert_allclose(out.advantages, [1.49970006, -0.49990002, -0.49990002, -0.49990002], rtol=1e-7)


def test_rloo_equals_reward_minus_mean_of_the_others() -> None:
    out = advantages([1.0, 0.0, 0.5, 0.0], groups=[0] * 4, baseline="rloo")
    np.testing.assert_allclose(out.advantages, [1 - 0.5 / 3, -0.5, 0.5 - 1 / 3, -0.5], rtol=1e-6)


def test_loo_posterior_adds_the_other_completions_to_the_tracker() -> None:
    out = advantages([1.0, 0.0, 1.0, 1.0], v_hat=[0.75] * 4, n_eff=[8.0] * 4, groups=[0] * 4, baseline="loo_posterior")
    expected = np.array([1.0, 0.0, 1.0, 1.0]) - [0.727273, 0.818182, 0.727273, 0.727273]
    np.testing.assert_allclose(out.advantages, expected, atol=1e-6)


@pytest.mark.parametrize("baseline", ["group", "rloo", "loo_posterior"])
def test_singletons_fall_back_to_the_tracker_and_are_counted(baseline: str) -> None:
    out = advantages(
        [1.0, 1.0, 0.0, 0.25],
        v_hat=[0.8, 0.5, 0.5, 0.75],
        groups=[1, 2, 2, 3],
        baseline=baseline,
        n_eff=[0.0, 8.0, 8.0, 8.0],
    )
    np.testing.assert_allclose(out.advantages[[0, 3]], [0.2, -0.5], rtol=1e-6)
    assert out.singletons == 2
    assert out.metrics["advantage/singletons"] == 2.0


def test_a_group_left_with_one_scored_completion_is_a_singleton() -> None:
    out = advantages(
        [1.0, NAN, 0.0, 1.0],
        v_hat=[0.75, 0.75, 0.5, 0.5],
        groups=[1, 1, 2, 2],
        baseline="group",
        active=[True, False, True, True],
    )
    np.testing.assert_allclose(out.advantages, [0.25, 0.0, -0.5, 0.5])
    assert out.singletons == 1


def test_zero_variance_groups_are_counted_and_exactly_zero() -> None:
    out = advantages([0.1, 0.1, 0.1, 1.0, 0.0], groups=[0, 0, 0, 1, 1], baseline="rloo", normalize="group")
    assert out.zero_variance_groups == 1
    assert out.metrics["reward/zero_std_fraction"] == 1 / 2
    assert out.advantages[:3].tolist() == [0.0, 0.0, 0.0]


def test_the_share_of_groups_without_variance_is_of_groups_of_two_or_more() -> None:
    rewards = [0.1, 0.1, 1.0, 1.0, 0.0, 1.0, 0.5]
    out = advantages(rewards, groups=[0, 0, 1, 1, 2, 2, 3], baseline="tracker")
    assert out.metrics["reward/zero_std_fraction"] == 2 / 3
    assert "reward/zero_std_fraction" not in advantages(rewards, groups=range(7), baseline="tracker").metrics


def test_group_scale_of_a_group_without_spread_leaves_the_tracker_alone() -> None:
    out = advantages([1.0, 1.0, 1.0], v_hat=[0.75, 0.75, 0.5], groups=[0, 0, 1], normalize="group")
    np.testing.assert_allclose(out.advantages, [0.25, 0.25, 0.5])


def test_token_normalization() -> None:
    out = advantages([1.0, 0.25, 0.6, -0.1], v_hat=[0.5] * 4, lengths=[10, 200, 50, 1000], normalize="token")
    np.testing.assert_allclose(out.advantages, [5.036651, 1.288907, 3.037854, -0.460041], atol=1e-5)


def test_batch_normalization() -> None:
    out = advantages([1.0, 0.0, 1.0, 0.0], v_hat=[0.75, 0.25, 0.5, 0.9], normalize="batch")
    expected = [0.56653393, -0.24280025, 0.97120101, -1.29493469]
    np.testing.assert_allclose(out.advantages, expected, rtol=1e-6)


def test_clip_bounds_the_normalized_advantage_and_is_measured() -> None:
    out = advantages([1.0, 0.25, 0.6, -0.1], v_hat=[0.5] * 4, lengths=[10, 200, 50, 1000], normalize="token", clip=5.0)
    assert out.advantages[0] == 5.0
    assert out.metrics["advantage/clipped_fraction"] == 0.25


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_inactive_sequences_leave_every_statistic(baseline: str, normalize: str) -> None:
    rewards, v_hat, n_eff = [1.0, 0.0, 0.5, 1.0, 0.0], [0.7, 0.7, 0.2, 0.2, 0.4], [3.0, 3.0, 5.0, 5.0, 8.0]
    groups, lengths = [0, 0, 1, 1, 2], [10, 30, 5, 8, 2]
    alone = advantages(
        rewards,
        v_hat=v_hat,
        n_eff=n_eff,
        groups=groups,
        lengths=lengths,
        baseline=baseline,
        normalize=normalize,
    )
    mixed = advantages(
        [NAN, *rewards, math.inf],
        v_hat=[0.9, *v_hat, 0.1],
        n_eff=[1.0, *n_eff, 1.0],
        groups=[0, *groups, 9],
        lengths=[500, *lengths, 500],
        baseline=baseline,
        normalize=normalize,
        active=[False, *[True] * 5, False],
    )
    np.testing.assert_array_equal(mixed.advantages, [0.0, *alone.advantages, 0.0])
    assert mixed.metrics == alone.metrics


@pytest.mark.parametrize("normalize", ["token", "batch"])
def test_fewer_than_two_active_sequences_are_neither_centered_nor_scaled(normalize: str) -> None:
    one = advantages([1.0, 0.0], v_hat=[0.75, 0.5], normalize=normalize, active=[True, False], lengths=[100, 100])
    np.testing.assert_allclose(one.advantages, [0.25, 0.0])
    none = advantages([1.0, NAN], normalize=normalize, active=[False, False])
    assert none.advantages.tolist() == [0.0, 0.0]
    empty = advantages([], normalize=normalize)
    assert empty.advantages.shape == (0,)


@pytest.mark.parametrize("baseline", BASELINES)
def test_empty_batch_with_groups(baseline: str) -> None:
    out = advantages([], groups=[], baseline=baseline, normalize="group")
    assert (out.advantages.size, out.singletons, out.zero_variance_groups) == (0, 0, 0)


@pytest.mark.parametrize("normalize", ["token", "batch"])
def test_a_batch_of_equal_rewards_is_neither_centered_nor_scaled(normalize: str) -> None:
    """Otherwise v̂'s own scatter decides: of 256 wrong answers half would be reinforced, and blown up to unit size."""
    v_hat = [0.0, 0.01, 0.05, 0.02]
    wrong = advantages([0.0] * 4, v_hat=v_hat, normalize=normalize)
    np.testing.assert_allclose(wrong.advantages, [-v for v in v_hat], atol=1e-7)
    right = advantages([1.0] * 4, v_hat=[0.99, 0.95, 1.0, 0.9], normalize=normalize)
    assert (right.advantages >= 0).all() and right.advantages.max() == pytest.approx(0.1)


@pytest.mark.parametrize("normalize", ["token", "batch"])
@pytest.mark.parametrize("baseline", ["group", "rloo"])
def test_a_group_without_variance_gets_no_advantage_from_the_others(baseline: str, normalize: str) -> None:
    rewards = [0.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    out = advantages(
        rewards, groups=[0, 0, 1, 1, 2, 2], lengths=[900, 800, 10, 300, 5, 7], baseline=baseline, normalize=normalize
    )
    assert out.advantages[[0, 1, 4, 5]].tolist() == [0.0] * 4
    assert out.advantages[2] > 0 > out.advantages[3]
    assert out.advantages[2] == -out.advantages[3]


def test_differences_that_are_no_more_than_rounding_are_not_blown_up() -> None:
    out = advantages([0.5, 0.502], v_hat=[0.5, 0.5], normalize="batch")
    np.testing.assert_allclose(out.advantages, [-0.02, 0.02], rtol=1e-5)


def test_the_mean_of_the_batch_as_baseline() -> None:
    out = advantages([1.0, 0.0, 0.0, 1.0, 1.0], v_hat=[0.9] * 5, baseline="batch", normalize="none")
    np.testing.assert_allclose(out.advantages, [0.4, -0.6, -0.6, 0.4, 0.4], rtol=1e-6)
    assert out.singletons == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    data=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0.01, 0.99), st.integers(0, 3), st.integers(1, 400)),
        min_size=2,
        max_size=30,
    ),
    order=st.randoms(use_true_random=False),
    baseline=st.sampled_from(BASELINES),
    normalize=st.sampled_from(NORMALIZATIONS),
)
def test_order_of_the_batch_does_not_matter(
    data: list[tuple[float, float, int, int]], order: object, baseline: str, normalize: str
) -> None:
    shuffled = list(range(len(data)))
    order.shuffle(shuffled)  # type: ignore[attr-defined]

    def run(rows: list[tuple[float, float, int, int]]) -> AdvantageOutput:
        return advantages(
            [r[0] for r in rows],
            v_hat=[r[1] for r in rows],
            groups=[r[2] for r in rows],
            lengths=[r[3] for r in rows],
            baseline=baseline,
            normalize=normalize,
            clip=5.0,
        )

    straight, permuted = run(data), run([data[i] for i in shuffled])
    assert np.isfinite(straight.advantages).all()
    np.testing.assert_allclose(permuted.advantages, straight.advantages[shuffled], rtol=1e-4, atol=1e-5)
    assert permuted.singletons == straight.singletons


@pytest.mark.parametrize("normalize", ["token", "batch", "none"])
def test_metrics_are_of_the_advantages_before_normalizing(normalize: str) -> None:
    out = advantages([1.0, 0.0, 1.0, 0.0], v_hat=[0.25] * 4, normalize=normalize, lengths=[5, 1, 1, 9])
    assert out.metrics["advantage/mean"] == pytest.approx(0.25)
    assert out.metrics["advantage/std"] == pytest.approx(0.5)
    assert out.metrics["advantage/abs_mean"] == pytest.approx(0.5)


def test_rewards_are_scaled_and_cut_to_the_range() -> None:
    np.testing.assert_allclose(scale_rewards([-1.0, 0.0, 1.0, 3.0, -9.0], -1.0, 1.0), [0.0, 0.5, 1.0, 1.0, 0.0])
    assert scale_rewards([], 0.0, 1.0).size == 0
    assert scale_rewards([[0.5, 2.0]]).tolist() == [[0.5, 1.0]]
    for unscored in (NAN, math.inf, -math.inf):
        with pytest.raises(ValueError, match="no evidence, leave it out"):
            scale_rewards([0.5, unscored])
    for low, high in ((1.0, 1.0), (1.0, 0.0), (0.0, math.inf)):
        with pytest.raises(ValueError, match="reward_range"):
            scale_rewards([0.5], low, high)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"baseline": "mean"}, "baseline is 'mean'; choose one of tracker, group"),
        ({"normalize": "minmax"}, "normalize is 'minmax'"),
        ({"clip": 0.0}, "clip must be above 0, not 0"),
        ({"lengths": [1, 2, 3]}, "lengths has shape"),
        ({"v_hat": [0.5]}, "v_hat has shape"),
    ],
)
def test_bad_requests_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        advantages([1.0, 0.0], **change)  # type: ignore[arg-type]


def test_a_non_finite_reward_of_an_active_sequence_is_refused() -> None:
    with pytest.raises(ValueError, match="rewards of an active sequence"):
        advantages([1.0, NAN])
