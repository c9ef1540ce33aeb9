"""Behavior corrections: written weights, masks, metrics, and that the difference is counted once."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bolt_ray.core.corrections import (
    Correction,
    CorrectionOptions,
    correction_weights,
    old_policy,
    summarize_correction,
)
from bolt_ray.core.losses import LossOptions, add_sums, policy_loss_packed

IDS = torch.tensor([0, 0, 1, 1, 1])
RATIOS = torch.tensor([3.0, 0.5, 1.0, 2.5, 0.8], dtype=torch.float64)
GENERATOR = torch.tensor([-1.0, -2.0, -0.3, -4.0, -1.5], dtype=torch.float64)
OLD = GENERATOR + RATIOS.log()


def weights(level: str, mode: str, *, mask: Tensor | None = None) -> Correction:
    options = CorrectionOptions(level=level, mode=mode, cap=2.0)
    return correction_weights(OLD, GENERATOR, sequence_ids=IDS, num_sequences=2, options=options, mask=mask)


@pytest.mark.parametrize(
    ("level", "mode", "expected"),
    [
        ("token", "truncate", [2.0, 0.5, 1.0, 2.0, 0.8]),
        ("token", "mask", [0.0, 0.5, 1.0, 0.0, 0.8]),
        # products: 1.5 and 2.0
        ("sequence", "truncate", [1.5, 1.5, 2.0, 2.0, 2.0]),
        # their roots by length: a long sequence is not cut for being long
        ("geometric", "truncate", [1.5 ** (1 / 2)] * 2 + [2.0 ** (1 / 3)] * 3),
    ],
)
def test_written_weights(level: str, mode: str, expected: list[float]) -> None:
    out = weights(level, mode).weights
    assert out is not None
    assert out.tolist() == pytest.approx(expected)


def test_sequence_mask_drops_the_whole_sequence() -> None:
    options = CorrectionOptions(level="sequence", mode="mask", cap=1.9)
    out = correction_weights(OLD, GENERATOR, sequence_ids=IDS, num_sequences=2, options=options).weights
    assert out is not None
    assert out.tolist() == pytest.approx([1.5, 1.5, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("level", "floor", "expected"),
    [("token", 0.6, [0.0, 0.0, 1.0, 0.0, 0.8]), ("sequence", 1.6, [0.0, 0.0, 2.0, 2.0, 2.0])],
)
def test_the_mask_has_two_sides(level: str, floor: float, expected: list[float]) -> None:
    """IcePop (arXiv 2510.18855): what the learner finds much less likely than the generator is left out too."""
    options = CorrectionOptions(level=level, mode="mask", cap=2.4, floor=floor)
    out = correction_weights(OLD, GENERATOR, sequence_ids=IDS, num_sequences=2, options=options)
    assert out.weights is not None
    assert out.weights.tolist() == pytest.approx(expected)
    units = {"token": 5, "sequence": 2}[level]
    assert summarize_correction(add_sums([out.metrics]))["correction/under_floor_fraction"] == pytest.approx(1 / units)


def test_masked_tokens_do_not_enter_the_product_and_get_no_weight() -> None:
    mask = torch.tensor([True, False, True, True, False])
    generator = GENERATOR.clone()
    generator[~mask] = float("nan")
    options = CorrectionOptions(level="sequence", mode="truncate", cap=2.9)
    out = correction_weights(OLD, generator, sequence_ids=IDS, num_sequences=2, options=options, mask=mask)
    assert out.weights is not None
    assert out.weights.tolist() == pytest.approx([2.9, 0.0, 2.5, 2.5, 0.0])
    assert out.metrics["correction_units"].item() == 2


def test_weights_are_detached() -> None:
    out = correction_weights(
        OLD.clone().requires_grad_(),
        GENERATOR,
        sequence_ids=IDS,
        num_sequences=2,
        options=CorrectionOptions(),
    )
    assert out.weights is not None and not out.weights.requires_grad


def test_mode_none_only_measures() -> None:
    out = weights("token", "none")
    assert out.weights is None
    summary = summarize_correction(add_sums([out.metrics]))
    assert summary["correction/ess"] == pytest.approx((RATIOS.sum() ** 2 / 5 / (RATIOS**2).sum()).item())
    assert summary["correction/over_cap_fraction"] == pytest.approx(2 / 5)


def test_ess_of_truncated_weights() -> None:
    summary = summarize_correction(add_sums([weights("token", "truncate").metrics]))
    assert summary["correction/ess"] == pytest.approx(6.3**2 / 5 / (4 + 0.25 + 1 + 4 + 0.64))
    sequences = summarize_correction(add_sums([weights("sequence", "truncate").metrics]))
    assert sequences["correction/ess"] == pytest.approx(3.5**2 / 2 / (2.25 + 4))


def test_a_sequence_without_tokens_is_no_unit_of_the_ess() -> None:
    options = CorrectionOptions(level="sequence", cap=2.0)
    out = correction_weights(OLD, GENERATOR, sequence_ids=2 * IDS, num_sequences=4, options=options)
    assert out.metrics["correction_units"].item() == 2
    assert summarize_correction(add_sums([out.metrics]))["correction/ess"] == pytest.approx(3.5**2 / 2 / (2.25 + 4))


def test_agreement_is_weight_one_and_ess_one() -> None:
    out = correction_weights(
        GENERATOR, GENERATOR, sequence_ids=IDS, num_sequences=2, options=CorrectionOptions(level="sequence")
    )
    assert out.weights is not None and out.weights.tolist() == [1.0] * 5
    assert summarize_correction(add_sums([out.metrics]))["correction/ess"] == pytest.approx(1.0)


def test_metrics_add_over_micro_batches() -> None:
    whole = add_sums([weights("sequence", "truncate").metrics])
    options = CorrectionOptions(level="sequence")
    parts = []
    for index in (0, 1):
        here = IDS.eq(index)
        part = correction_weights(
            OLD[here], GENERATOR[here], sequence_ids=IDS[here] * 0, num_sequences=1, options=options
        )
        parts.append(part.metrics)
    assert add_sums(parts) == pytest.approx(whole)


def test_empty_and_extreme_differences() -> None:
    empty = torch.empty(0)
    out = correction_weights(
        empty, empty, sequence_ids=empty.long(), num_sequences=2, options=CorrectionOptions(level="sequence")
    )
    assert out.weights is not None and out.weights.numel() == 0
    assert summarize_correction(add_sums([out.metrics])) == {}
    huge = correction_weights(
        torch.tensor([0.0, -500.0]),
        torch.tensor([-500.0, 0.0]),
        sequence_ids=torch.tensor([0, 1]),
        num_sequences=2,
        options=CorrectionOptions(),
    )
    assert huge.weights is not None and huge.weights.tolist() == [2.0, 0.0]


def test_the_difference_is_counted_once_either_way() -> None:
    """Before any update both choices weight a gradient by π_learner/π_generator, not by its square."""
    advantages = torch.tensor([1.0, 1.0], dtype=torch.float64)
    gradients = []
    for recomputed in (None, OLD):
        old = old_policy(
            GENERATOR,
            recomputed,
            sequence_ids=IDS,
            num_sequences=2,
            options=CorrectionOptions(cap=100.0),
        )
        logprobs = OLD.clone().requires_grad_()
        output = policy_loss_packed(
            logprobs,
            old.logprobs,
            advantages,
            IDS,
            options=LossOptions(clip_low=0.99, clip_high=50.0),
            correction_weights=None if old.correction is None else old.correction.weights,
        )
        output.loss.backward()
        gradients.append(logprobs.grad)
    torch.testing.assert_close(gradients[0], -RATIOS / 5)
    torch.testing.assert_close(gradients[1], -RATIOS / 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "batch"}, "level is"),
        ({"mode": "clip"}, "mode is"),
        ({"cap": 0.0}, "cap must be above 0"),
        ({"cap": math.inf}, "cap must be a finite number"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CorrectionOptions(**options)  # type: ignore[arg-type]


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="generator_logprobs has shape"):
        correction_weights(OLD, GENERATOR[:2], sequence_ids=IDS, num_sequences=2, options=CorrectionOptions())
