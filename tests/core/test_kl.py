"""KL: values, what the gradients are by enumeration, shapes, legal combinations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bolt_ray.core.kl import (
    ESTIMATORS,
    KLOptions,
    KLSettings,
    estimate_kl,
    kl_reward_penalty,
    kl_terms,
    shape_kl,
    unbiased_kl,
)

LOG_HALF = torch.tensor([0.5], dtype=torch.float64).log()
LOG_POINT_SIX = torch.tensor([0.6], dtype=torch.float64).log()


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [("k1", -0.18232156), ("k2", 0.01662058), ("k3", 0.01767844), ("abs", 0.18232156)],
)
def test_written_values(estimator: str, expected: float) -> None:
    assert estimate_kl(LOG_HALF, LOG_POINT_SIX, estimator).item() == pytest.approx(expected, abs=1e-8)


def test_k3_keeps_its_digits_near_zero() -> None:
    d = 1e-4
    value = estimate_kl(torch.zeros(1), torch.full((1,), d), "k3").item()
    assert value == pytest.approx(d * d / 2 + d**3 / 6, rel=1e-2)


def test_k3_of_an_impossible_token_is_finite() -> None:
    logprobs = torch.tensor([-100.0], requires_grad=True)
    value = estimate_kl(logprobs, torch.zeros(1), "k3")
    value.backward()
    assert torch.isfinite(value).all()
    assert logprobs.grad is not None and torch.isfinite(logprobs.grad).all()


LOGITS = torch.tensor([0.3, -1.1, 0.7, 0.05, -0.4], dtype=torch.float64)
REFERENCE = torch.tensor([-0.2, 0.4, 0.1, 0.9, -1.0], dtype=torch.float64).log_softmax(0)


def expected_gradient(estimator: str, *, unbiased: bool = False) -> Tensor:
    """∇ of the loss term averaged over tokens x ~ π, all x enumerated; π_old = π."""
    logits = LOGITS.clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    kl = estimate_kl(logprobs, REFERENCE, estimator)
    if unbiased:
        kl = unbiased_kl(kl, logprobs - logprobs.detach())
    (logprobs.detach().exp() * kl).sum().backward()
    assert logits.grad is not None
    return logits.grad


def true_gradient(of: str) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    logprobs = logits.log_softmax(0)
    policy, reference = logprobs.exp(), REFERENCE.exp()
    value = {
        "KL(policy, reference)": (policy * (logprobs - REFERENCE)).sum(),
        "KL(reference, policy)": (reference * (REFERENCE - logprobs)).sum(),
        "L1 distance": (policy - reference).abs().sum(),
    }[of]
    value.backward()
    assert logits.grad is not None
    return logits.grad


def test_k1_as_a_loss_has_zero_expected_gradient() -> None:
    torch.testing.assert_close(expected_gradient("k1"), torch.zeros(5, dtype=torch.float64))


def test_k2_as_a_loss_descends_kl_of_policy_to_reference() -> None:
    torch.testing.assert_close(expected_gradient("k2"), true_gradient("KL(policy, reference)"))


def test_plain_k3_as_a_loss_descends_the_other_direction() -> None:
    torch.testing.assert_close(expected_gradient("k3"), true_gradient("KL(reference, policy)"))
    assert (expected_gradient("k3") - true_gradient("KL(policy, reference)")).abs().max() > 0.01


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_unbiased_form_descends_kl_of_policy_to_reference(estimator: str) -> None:
    torch.testing.assert_close(expected_gradient(estimator, unbiased=True), true_gradient("KL(policy, reference)"))


def test_unbiased_form_would_spoil_k2() -> None:
    assert (expected_gradient("k2", unbiased=True) - true_gradient("KL(policy, reference)")).abs().max() > 0.01


def test_abs_descends_the_l1_distance() -> None:
    torch.testing.assert_close(expected_gradient("abs"), true_gradient("L1 distance"))


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_estimators_are_unbiased_in_value(estimator: str) -> None:
    logprobs = LOGITS.log_softmax(0)
    expected = (logprobs.exp() * (logprobs - REFERENCE)).sum()
    torch.testing.assert_close((logprobs.exp() * estimate_kl(logprobs, REFERENCE, estimator)).sum(), expected)


@pytest.mark.parametrize(
    ("options", "value", "slope"),
    [
        (KLOptions(), 0.5, 1.0),
        (KLOptions(adaptation=("clip",), clip_threshold=1.0), 0.5, 1.0),
        (KLOptions(adaptation=("clip",), clip_threshold=0.4), 0.4, 0.0),
        # σ(.4) = .59868766; slope σ + K·σ(1−σ)
        (KLOptions(adaptation=("sigmoid",)), 0.29934383, 0.59868766 + 0.5 * 0.24026075),
        (KLOptions(adaptation=("hinge",), threshold=0.2), 0.3, 1.0),
        (KLOptions(adaptation=("hinge",), threshold=0.6), 0.0, 0.0),
        (KLOptions(adaptation=("softplus",), threshold=0.2), math.log1p(math.exp(0.3)), 0.57444252),
    ],
)
def test_shapes_value_and_slope(options: KLOptions, value: float, slope: float) -> None:
    kl = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    shaped = shape_kl(kl, options)
    (gradient,) = torch.autograd.grad(shaped, kl)
    assert shaped.item() == pytest.approx(value, abs=1e-8)
    assert gradient.item() == pytest.approx(slope, abs=1e-7)


IDS = torch.tensor([0, 0, 0, 2, 2])


def terms_of_k2(kl: list[float], options: KLOptions) -> tuple[list[float], list[float], str]:
    """Terms of a flat batch whose k2 are ``kl``; sequence 1 has no token."""
    logprobs = torch.tensor(kl, dtype=torch.float64).mul(2).sqrt()
    zeros = torch.zeros_like(logprobs)
    terms = kl_terms(logprobs, zeros, log_ratio=zeros, sequence_ids=IDS, num_sequences=3, options=options)
    assert terms.raw.requires_grad is False
    return terms.raw.tolist(), terms.adapted.tolist(), terms.unit


def k3_of_k2(kl: float) -> float:
    """k3 of the token whose k2 is ``kl``: d = −√(2·kl)."""
    d = -math.sqrt(2 * kl)
    return math.expm1(d) - d


def test_length_normalized_is_the_mean_over_each_sequence() -> None:
    raw, adapted, unit = terms_of_k2([0.2, 0.4, 0.6, 0.1, 0.1], KLOptions(adaptation=("length_normalized",)))
    assert unit == "sequence"
    assert adapted == pytest.approx([0.4, 0.0, 0.1])
    # What is reported stays the KL of each token.
    assert raw == pytest.approx([k3_of_k2(kl) for kl in (0.2, 0.4, 0.6, 0.1, 0.1)])
    assert (adapted[0] + adapted[2]) / 2 == pytest.approx(0.25)


def test_length_normalized_comes_before_the_shape() -> None:
    options = KLOptions(adaptation=("hinge", "length_normalized"), threshold=0.3)
    _, adapted, unit = terms_of_k2([0.2, 0.4, 0.6, 0.1, 0.1], options)
    assert unit == "sequence"
    assert adapted == pytest.approx([0.1, 0.0, 0.0])


def test_unit_decides_what_the_shape_sees() -> None:
    kl = [0.2, 0.4, 0.6, 0.1, 0.1]
    _, tokens, unit = terms_of_k2(kl, KLOptions(adaptation=("clip",), clip_threshold=0.5))
    assert (unit, tokens) == ("token", pytest.approx([0.2, 0.4, 0.5, 0.1, 0.1]))
    raw, sums, unit = terms_of_k2(kl, KLOptions(adaptation=("clip",), clip_threshold=0.5, unit="sequence"))
    assert unit == "sequence"
    assert raw == pytest.approx([k3_of_k2(0.2) + k3_of_k2(0.4) + k3_of_k2(0.6), 0.0, 2 * k3_of_k2(0.1)])
    assert sums == pytest.approx([0.5, 0.0, 0.2])


def test_default_multiplies_k3_by_the_ratio_and_reports_it_without() -> None:
    logprobs = torch.tensor([-1.0], dtype=torch.float64)
    terms = kl_terms(
        logprobs,
        logprobs + 0.5,
        log_ratio=torch.tensor([0.2], dtype=torch.float64),
        sequence_ids=torch.tensor([0]),
        num_sequences=1,
        options=KLOptions(),
    )
    k3 = math.exp(0.5) - 1.5
    assert terms.raw.item() == pytest.approx(k3)
    assert terms.adapted.item() == pytest.approx(math.exp(0.2) * k3)


def test_reward_penalty_is_the_sum_over_the_sequence_without_gradient() -> None:
    logprobs = torch.tensor([-1.0, -2.0, -0.5, -1.0, -1.0], requires_grad=True)
    ref = torch.tensor([-1.5, -1.0, -0.5, -1.2, -1.1])
    penalty = kl_reward_penalty(logprobs, ref, sequence_ids=IDS, num_sequences=3, estimator="k1")
    assert penalty.tolist() == pytest.approx([-0.5, 0.0, 0.3])
    assert not penalty.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimator": "k4"}, "estimator is"),
        ({"placement": "advantage"}, "placement is"),
        ({"unit": "batch"}, "unit is 'batch'; choose"),
        ({"adaptation": ("clamp",)}, "adaptation is 'clamp'; choose"),
        ({"estimator": "k1"}, "zero expected gradient"),
        ({"adaptation": ("clip", "sigmoid")}, "at most one shape"),
        ({"adaptation": ("clip", "length_normalized", "hinge")}, "at most one shape"),
        ({"adaptation": ("clip", "clip")}, "twice"),
        ({"adaptation": ("clip",), "placement": "reward"}, "placement: loss"),
        ({"clip_threshold": 0.0}, "clip_threshold must be above 0"),
        ({"temperature": -1.0}, "temperature must be above 0"),
        ({"threshold": -0.1}, "threshold must be at least 0"),
        ({"target": float("nan")}, "target must be a finite number"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KLOptions(**options)  # type: ignore[arg-type]


def test_what_needs_a_coefficient_is_refused_without_one() -> None:
    with pytest.raises(ValueError, match=r"'ziegler' multiplies kl\.coef"):
        KLSettings(controller="ziegler")
    with pytest.raises(ValueError, match=r"no effect with kl\.coef 0"):
        KLSettings(adaptation=("clip",))
    with pytest.raises(ValueError, match="coef must be at least 0"):
        KLSettings(coef=-0.1)
    assert KLSettings().coef == 0.0
    assert KLSettings(adaptation=("length_normalized", "clip"), coef=0.1, controller="dynamic").shape == "clip"
    assert KLSettings(estimator="k1", placement="reward", coef=0.1).estimator == "k1"


def test_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match=", ".join(ESTIMATORS)):
        estimate_kl(LOG_HALF, LOG_HALF, "k5")
