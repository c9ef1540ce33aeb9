"""The policy losses on a padded batch: written numbers, gradients, masks, options."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bolt_ray.core.kl import KLOptions
from bolt_ray.core.losses import (
    LOSSES,
    SUM_KEYS,
    Denominators,
    LossOptions,
    LossOutput,
    add_sums,
    entropy_threshold,
    policy_loss,
    summarize,
    top_entropy_mask,
)

NAN = float("nan")
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])
ADVANTAGES = torch.tensor([1.0, -0.5, 0.25], dtype=torch.float64)
OLD = torch.tensor([[0.5, 0.4, 0.25, 1], [0.8, 0.1, 1, 1], [0.3, 0.6, 0.2, 0.9]], dtype=torch.float64).log()
RATIO = torch.tensor([[1.5, 0.9, 1.1, 1], [0.7, 1.4, 1, 1], [1.25, 1, 0.5, 1.05]], dtype=torch.float64)


def example(**options: object) -> tuple[LossOutput, Tensor]:
    """Loss of the three written sequences, and its gradient by log π."""
    logprobs = (OLD + RATIO.log()).requires_grad_()
    options = {"clip_low": 0.2, "clip_high": 0.28} | options
    output = policy_loss(logprobs, OLD, ADVANTAGES, MASK, **options)  # type: ignore[arg-type]
    output.loss.backward()
    assert logprobs.grad is not None
    return output, logprobs.grad


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"type": "grpo"}, -0.26027778),
        ({"type": "dapo"}, -0.34777778),
        ({"type": "bnpo"}, -0.34777778),
        ({"type": "dr_grpo", "max_completion_tokens": 4}, -0.26083333),
        ({"type": "gspo"}, -0.29030795),
        ({"type": "cispo", "cispo_max": 5.0}, 0.21430720),
        ({"type": "sapo"}, -0.55826074),
        ({"type": "dapo", "delta": 1.3}, -0.35333333),
        # sequence 2's 1.4 would lose 0.7; c = 1.3 bounds that at 0.65, just as delta does.
        ({"type": "dapo", "dual_clip": 1.3}, -0.35333333),
        # −Σ A·log π / 9, by hand from the table above.
        ({"type": "reinforce"}, 0.25445049),
    ],
)
def test_loss_of_the_written_example(options: dict[str, object], expected: float) -> None:
    assert example(**options)[0].loss.item() == pytest.approx(expected, abs=2e-8)


def test_dapo_gradient_is_minus_ratio_times_advantage_where_not_clipped() -> None:
    expected = torch.tensor(
        # 1.5 > 1.28 with A > 0 and .7 < .8 with A < 0 are clipped; padding has none.
        [[0.0, -0.9, -1.1, 0.0], [0.0, 0.7, 0.0, 0.0], [-0.3125, -0.25, -0.125, -0.2625]],
        dtype=torch.float64,
    )
    torch.testing.assert_close(example(type="dapo")[1], expected / 9)


def test_grpo_and_dr_grpo_gradients_differ_from_dapo_by_their_token_weights() -> None:
    by_token = example(type="dapo")[1] * 9
    by_sequence = by_token / torch.tensor([[3.0], [2.0], [4.0]]) / 3
    torch.testing.assert_close(example(type="grpo")[1], by_sequence)
    torch.testing.assert_close(example(type="dr_grpo", max_completion_tokens=4)[1], by_token / 12)


def test_gspo_gives_every_token_of_a_sequence_the_gradient_of_its_mean() -> None:
    grad = example(type="gspo")[1]
    s = [1.485 ** (1 / 3), math.sqrt(0.98), 0.65625**0.25]  # s_i, all inside [.8, 1.28]
    for row, (value, length) in enumerate(zip(s, (3, 2, 4), strict=True)):
        expected = -value * ADVANTAGES[row].item() / length / 3
        torch.testing.assert_close(grad[row, :length], torch.full((length,), expected, dtype=torch.float64))
        assert not grad[row, length:].any()


def test_cispo_keeps_the_gradient_of_a_large_ratio_and_caps_its_weight() -> None:
    grad = example(type="cispo", cispo_max=1.2)[1]
    torch.testing.assert_close(grad[0], torch.tensor([-1.2, -0.9, -1.1, 0.0], dtype=torch.float64) / 9)


def test_sapo_gradient_at_ratio_one_is_minus_the_advantage() -> None:
    grad = example(type="sapo")[1]
    assert grad[2, 1].item() == pytest.approx(-0.25 / 4 / 3)  # the third sequence's second token has r = 1


def test_dual_clip_removes_the_gradient_of_an_exploding_negative() -> None:
    assert example(type="dapo", dual_clip=1.3)[1][1, 1].item() == 0.0
    assert example(type="dapo")[1][1, 1].item() == pytest.approx(0.7 / 9)


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        # 1.5 with A > 0 and 0.7 with A < 0 leave [0.8, 1.28]; 1.4 with A < 0 is above delta or dual_clip.
        ({"type": "dapo"}, 1, 1),
        ({"type": "dapo", "delta": 1.3}, 1, 2),
        ({"type": "dapo", "delta": 1.45}, 1, 1),
        ({"type": "dapo", "dual_clip": 1.3}, 1, 2),
        # The sequences' ratios are 1.141 with A > 0, 0.990 with A < 0 and 0.900 with A > 0: three tokens and two,
        # though each of these sequences also has tokens whose own ratio lies on the other side of 1.
        ({"type": "gspo", "clip_low": 3e-4, "clip_high": 4e-4}, 2, 3),
        # 1.5, 1.4 and 1.25 are above the cap, whatever the advantage.
        ({"type": "cispo", "cispo_max": 1.2}, 0, 3),
        ({"type": "cispo", "cispo_max": 5.0}, 0, 0),
        ({"type": "sapo"}, 0, 0),
        ({"type": "reinforce"}, 0, 0),
    ],
)
def test_clip_fractions_count_every_kind_of_clip(options: dict[str, object], low: int, high: int) -> None:
    metrics = summarize(add_sums([example(**options)[0].metrics]))
    assert metrics["policy/clip_fraction"] == pytest.approx((low + high) / 9)
    assert metrics["loss/clip_low_fraction"] == pytest.approx(low / 9)
    assert metrics["loss/clip_high_fraction"] == pytest.approx(high / 9)


def test_metrics_of_the_written_example() -> None:
    metrics = summarize(add_sums([example(type="dapo")[0].metrics]))
    assert metrics["policy/clip_fraction"] == pytest.approx(2 / 9)
    assert metrics["loss/policy"] == metrics["loss/total"] == pytest.approx(-0.34777778)
    ratios = [1.5, 0.9, 1.1, 0.7, 1.4, 1.25, 1.0, 0.5, 1.05]
    assert metrics["policy/ratio_ess"] == pytest.approx(sum(ratios) ** 2 / 9 / sum(r * r for r in ratios))
    assert "policy/entropy" not in metrics
    assert "adaptive_kl/raw_kl" not in metrics


@pytest.mark.parametrize("loss_type", LOSSES)
def test_nothing_active_is_zero_with_a_gradient_path(loss_type: str) -> None:
    logprobs = torch.full((2, 3), NAN, requires_grad=True)
    output = policy_loss(
        logprobs,
        torch.full((2, 3), -math.inf),
        torch.ones(2),
        torch.zeros(2, 3),
        type=loss_type,
        max_completion_tokens=8,
        entropy=torch.full((2, 3), NAN, requires_grad=True),
        entropy_coef=0.1,
        ref_logprobs=torch.zeros(2, 3),
        kl_coef=0.1,
        kl_options=KLOptions(adaptation=("softplus",), unit="sequence"),
    )
    output.loss.backward()
    assert output.loss.item() == 0.0
    assert logprobs.grad is not None and not logprobs.grad.any()
    assert set(output.metrics) == set(SUM_KEYS)
    assert summarize(add_sums([output.metrics]))["loss/total"] == 0.0


@pytest.mark.parametrize("loss_type", LOSSES)
def test_padding_and_masked_sequences_change_nothing(loss_type: str) -> None:
    plain, plain_grad = example(type=loss_type, max_completion_tokens=4)
    logprobs = torch.full((4, 6), NAN, dtype=torch.float64)
    old = torch.full((4, 6), -math.inf, dtype=torch.float64)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    rows = torch.tensor([0, 2, 3])  # row 1 is a fully masked sequence
    mask[rows, :4] = MASK.bool()
    logprobs[mask] = (OLD + RATIO.log())[MASK.bool()]
    old[mask] = OLD[MASK.bool()]
    advantages = torch.full((4,), 7.0, dtype=torch.float64)
    advantages[rows] = ADVANTAGES
    logprobs.requires_grad_()

    clip = {"clip_low": 0.2, "clip_high": 0.28}
    output = policy_loss(logprobs, old, advantages, mask, type=loss_type, max_completion_tokens=4, **clip)
    output.loss.backward()

    assert output.loss.item() == pytest.approx(plain.loss.item(), rel=1e-12)
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad[mask], plain_grad[MASK.bool()])
    assert not logprobs.grad[~mask].any()
    assert output.metrics["active_sequences"].item() == 3


@pytest.mark.parametrize("loss_type", LOSSES)
def test_truncated_sequences_leave_the_loss_and_its_denominators(loss_type: str) -> None:
    logprobs = OLD + RATIO.log()
    keep = torch.tensor([0, 2])
    expected = policy_loss(
        logprobs[keep], OLD[keep], ADVANTAGES[keep], MASK[keep], type=loss_type, max_completion_tokens=4
    )
    masked = policy_loss(
        logprobs,
        OLD,
        ADVANTAGES,
        MASK,
        type=loss_type,
        max_completion_tokens=4,
        truncated=torch.tensor([False, True, False]),
    )
    assert masked.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)


def test_correction_weights_multiply_the_policy_term_and_carry_no_gradient() -> None:
    weights = torch.full((3, 4), 0.5, dtype=torch.float64, requires_grad=True)
    halved, grad = example(type="dapo", correction_weights=weights, ref_logprobs=OLD, kl_coef=0.1)
    plain, _ = example(type="dapo", ref_logprobs=OLD, kl_coef=0.1)
    assert halved.metrics["policy_loss"].item() == pytest.approx(-0.34777778 / 2, abs=1e-8)
    assert halved.metrics["kl_loss"].item() == pytest.approx(plain.metrics["kl_loss"].item())
    assert weights.grad is None
    assert grad.any()


def test_entropy_bonus_is_minus_coef_times_mean_entropy() -> None:
    entropy = torch.tensor([[1.0, 2.0, 3.0, 99.0]], requires_grad=True)
    zeros = torch.zeros(1, 4, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 0]])
    output = policy_loss(zeros, zeros, torch.zeros(1), mask, entropy=entropy, entropy_coef=0.5)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(-1.0)
    assert entropy.grad is not None
    torch.testing.assert_close(entropy.grad, torch.tensor([[-1 / 6, -1 / 6, -1 / 6, 0.0]]))
    assert summarize(add_sums([output.metrics]))["policy/entropy"] == pytest.approx(2.0)


def test_top_entropy_mask_limits_policy_term_and_bonus_but_not_the_denominator() -> None:
    entropy = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    mask = torch.ones(1, 4)
    threshold = entropy_threshold(entropy[mask.bool()], 0.5)
    assert threshold == pytest.approx(2.5)
    chosen = top_entropy_mask(entropy, mask, threshold)
    assert chosen.tolist() == [[False, False, True, True]]
    zeros = torch.zeros(1, 4, requires_grad=True)
    output = policy_loss(
        zeros,
        zeros,
        torch.ones(1),
        mask,
        entropy=entropy,
        entropy_coef=0.1,
        top_entropy_mask=chosen,
        type="dapo",
    )
    # policy: two of four tokens at −1, over N = 4; bonus: mean entropy of the two.
    assert output.metrics["policy_loss"].item() == pytest.approx(-0.5)
    assert output.metrics["entropy_loss"].item() == pytest.approx(-0.35)


def test_entropy_threshold_equals_the_interpolated_quantile_and_refuses_nothing() -> None:
    values = torch.tensor([0.3, 2.0, 0.7, 1.1, 0.2, 5.0, 0.9])
    for fraction in (0.05, 0.2, 0.55, 1.0):
        expected = torch.quantile(values, 1 - fraction).item()
        assert entropy_threshold(values, fraction) == pytest.approx(expected)
    with pytest.raises(ValueError, match="no active token"):
        entropy_threshold(torch.empty(0), 0.2)
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        entropy_threshold(values, 0.0)


def test_an_overflowing_ratio_leaves_a_finite_gradient() -> None:
    logprobs = torch.zeros(2, 1, requires_grad=True)
    old = torch.full((2, 1), -200.0)
    output = policy_loss(logprobs, old, torch.tensor([1.0, -1.0]), torch.ones(2, 1))
    output.loss.backward()
    assert torch.isfinite(output.loss)
    assert logprobs.grad is not None and torch.isfinite(logprobs.grad).all()


def test_half_precision_is_computed_in_float32() -> None:
    logprobs = (OLD + RATIO.log()).bfloat16().requires_grad_()
    output = policy_loss(logprobs, OLD.bfloat16(), ADVANTAGES.bfloat16(), MASK)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert output.loss.item() == pytest.approx(-0.34777778, abs=0.02)


def test_kl_term_is_added_with_its_coefficient_and_measured_without() -> None:
    ref = OLD.clone()
    k2 = KLOptions(estimator="k2")
    with_kl, _ = example(type="dapo", ref_logprobs=ref, kl_coef=0.1, kl_options=k2)
    mean_k2 = ((RATIO.log() ** 2 / 2) * MASK).sum().item() / 9
    assert with_kl.loss.item() == pytest.approx(-0.34777778 + 0.1 * mean_k2, abs=1e-8)
    metrics = summarize(add_sums([with_kl.metrics]))
    assert metrics["adaptive_kl/adapted_kl"] == pytest.approx(mean_k2)
    # Raw is the KL itself, by k3 whatever is penalized: d = log π_ref − log π = −log r.
    k3 = (1 / RATIO - 1 + RATIO.log()) * MASK
    assert metrics["adaptive_kl/raw_kl"] == pytest.approx(k3.sum().item() / 9)
    for options in ({"kl_coef": 0.0}, {"kl_coef": 0.1, "kl_options": KLOptions(placement="reward")}):
        measured, _ = example(type="dapo", ref_logprobs=ref, **options)
        assert measured.loss.item() == pytest.approx(-0.34777778, abs=1e-8)
        assert measured.metrics["raw_kl_sum"].item() > 0.0


def test_unbiased_k3_uses_the_token_ratio() -> None:
    ref = OLD - 0.2
    output, _ = example(type="grpo", ref_logprobs=ref, kl_coef=1.0)
    d = ref - (OLD + RATIO.log())
    kl = RATIO * (d.exp() - d - 1)
    lengths = torch.tensor([3.0, 2.0, 4.0], dtype=torch.float64)
    expected = ((kl * MASK).sum(1) / lengths).mean().item()
    assert output.metrics["kl_loss"].item() == pytest.approx(expected)


def test_sequence_unit_kl_is_the_mean_over_active_sequences() -> None:
    options = KLOptions(estimator="k2", unit="sequence")
    output, _ = example(type="dapo", ref_logprobs=OLD, kl_coef=1.0, kl_options=options)
    k2 = (RATIO.log() ** 2 / 2) * MASK
    assert output.metrics["kl_loss"].item() == pytest.approx(k2.sum().item() / 3)
    assert output.metrics["adapted_kl_count"].item() == output.metrics["raw_kl_count"].item() == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"type": "ppo"}, "is no loss"),
        ({"aggregation": "sum"}, "aggregation is"),
        ({"type": "gspo", "aggregation": "token_mean"}, "gspo's one ratio per sequence"),
        ({"type": "gspo", "aggregation": "fixed_length", "max_completion_tokens": 4}, "gspo's one ratio"),
        ({"type": "dr_grpo", "max_completion_tokens": 0}, "at least 1"),
        ({"clip_low": 0.3, "clip_high": 0.2}, "out of order"),
        ({"clip_low": -0.1}, "clip_low must be at least 0"),
        ({"clip_low": 1.0, "clip_high": 1.0}, "clip_low must be below 1"),
        ({"clip_high": NAN}, "clip_high must be a finite number"),
        ({"delta": 1.1}, "delta must be above"),
        ({"dual_clip": 0.5}, "dual_clip must be above"),
        ({"type": "cispo", "dual_clip": 2.0}, "no meaning for cispo"),
        ({"type": "sapo", "delta": 2.0}, "no meaning for sapo"),
        ({"cispo_max": 0.0}, "cispo_max"),
        ({"sapo_tau_negative": -1.0}, "sapo_tau_negative"),
        ({"entropy_coef": NAN}, "entropy_coef"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        example(**options)


def test_every_type_has_its_own_clip_range() -> None:
    assert LossOptions(type="grpo").clip_range == (0.2, 0.2)
    assert LossOptions(type="dapo").clip_range == (0.2, 0.28)
    assert LossOptions(type="gspo").clip_range == (3e-4, 4e-4)
    assert LossOptions(type="dapo", clip_high=0.5).clip_range == (0.2, 0.5)


def test_missing_and_misshapen_tensors_are_refused() -> None:
    zeros = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="needs max_completion_tokens"):
        policy_loss(zeros, zeros, torch.zeros(2), zeros, type="dr_grpo")
    with pytest.raises(ValueError, match="no entropy"):
        policy_loss(zeros, zeros, torch.zeros(2), zeros, entropy_coef=0.1)
    with pytest.raises(ValueError, match="no ref_logprobs"):
        policy_loss(zeros, zeros, torch.zeros(2), zeros, kl_coef=0.1)
    with pytest.raises(ValueError, match="old_logprobs has shape"):
        policy_loss(zeros, torch.zeros(2, 1), torch.zeros(2), zeros)
    with pytest.raises(ValueError, match="advantages"):
        policy_loss(zeros, zeros, torch.zeros(2, 1), zeros)
    with pytest.raises(ValueError, match="sequence_ids must lie in"):
        policy_loss(zeros, zeros, torch.zeros(1), zeros)
    with pytest.raises(ValueError, match="selected_tokens"):
        policy_loss(
            zeros,
            zeros,
            torch.zeros(2),
            torch.ones(2, 3),
            entropy=zeros,
            entropy_coef=0.1,
            top_entropy_mask=torch.ones(2, 3),
            denominators=Denominators(active_tokens=6, active_sequences=2),
        )
