"""One batch, any cut: ranks × accumulation × micro-batches × packing give one gradient."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bolt_ray.core.kl import KLOptions
from bolt_ray.core.losses import (
    LOSSES,
    Denominators,
    LossOptions,
    add_sums,
    policy_loss,
    policy_loss_packed,
    summarize,
)

CUT_INVARIANT = [name for name in LOSSES if name != "bnpo"]
KL_VARIANTS = (
    KLOptions(),
    KLOptions(adaptation=("softplus",), unit="sequence"),
    KLOptions(adaptation=("length_normalized", "sigmoid")),
)


@dataclass(frozen=True)
class Batch:
    """Ragged batch: lists of [L_i] tensors; ``theta`` [Σ L_i] are the parameters, log π by position."""

    theta: Tensor
    starts: list[int]
    lengths: list[int]
    old: Tensor
    ref: Tensor
    weights: Tensor
    selected: Tensor
    mask: Tensor
    advantages: Tensor
    entropy_slope: Tensor

    def tokens(self, sequences: list[int]) -> Tensor:
        pieces = [torch.arange(self.starts[i], self.starts[i] + self.lengths[i]) for i in sequences]
        return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.long)

    def ids(self, sequences: list[int]) -> Tensor:
        return torch.repeat_interleave(
            torch.arange(len(sequences)), torch.tensor([self.lengths[i] for i in sequences], dtype=torch.long)
        )


def make_batch(lengths: list[int], seed: int, dtype: torch.dtype = torch.float64) -> Batch:
    rng = torch.Generator().manual_seed(seed)
    total = sum(lengths)

    def normal(n: int) -> Tensor:
        return torch.randn(n, generator=rng, dtype=torch.float64).to(dtype)

    theta = -normal(total).abs() - 0.05
    mask = torch.rand(total, generator=rng) > 0.2
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    mask[: lengths[0]] = False  # the first sequence is fully masked
    mask[starts[-1]] = True
    return Batch(
        theta=theta,
        starts=starts,
        lengths=lengths,
        old=theta + 0.4 * normal(total),
        ref=theta + 0.4 * normal(total),
        weights=torch.rand(total, generator=rng).to(dtype) * 2,
        selected=torch.rand(total, generator=rng) > 0.5,
        mask=mask,
        advantages=normal(len(lengths)),
        entropy_slope=normal(total),
    )


def gradient(
    batch: Batch, ranks: list[list[list[int]]], options: LossOptions, kl: KLOptions
) -> tuple[Tensor, dict[str, float]]:
    """Gradient as DeepSpeed makes it: mean over ranks of the sum over micro-batches of loss / G."""
    accumulation = len(ranks[0])
    every = list(range(len(batch.lengths)))
    ids = batch.ids(every)[batch.mask]
    denominators = Denominators(
        active_tokens=int(batch.mask.sum()),
        active_sequences=int(ids.unique().numel()),
        selected_tokens=int((batch.mask & batch.selected).sum()),
        scale=len(ranks) * accumulation,
    )
    total, metrics = torch.zeros_like(batch.theta), []
    for micro_batches in ranks:
        theta = batch.theta.clone().requires_grad_()
        for sequences in micro_batches:
            where = batch.tokens(sequences)
            output = policy_loss_packed(
                theta[where],
                batch.old[where],
                batch.advantages[sequences],
                batch.ids(sequences),
                batch.mask[where],
                options=options,
                entropy=theta[where] * batch.entropy_slope[where],
                top_entropy_mask=batch.selected[where],
                correction_weights=batch.weights[where],
                ref_logprobs=batch.ref[where],
                kl_coef=0.3,
                kl_options=kl,
                denominators=denominators,
            )
            (output.loss / accumulation).backward()
            metrics.append(output.metrics)
        assert theta.grad is not None
        total += theta.grad / len(ranks)
    return total, summarize(add_sums(metrics))


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[int], list[list[list[int]]], int]:
    """Lengths, and the sequences dealt to ranks and micro-batches in any order; some micro-batches empty."""
    lengths = draw(st.lists(st.integers(1, 9), min_size=2, max_size=10))
    order = draw(st.permutations(range(len(lengths))))
    ranks, accumulation = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 2, 4]))
    places = draw(st.lists(st.integers(0, ranks * accumulation - 1), min_size=len(order), max_size=len(order)))
    dealt: list[list[list[int]]] = [[[] for _ in range(accumulation)] for _ in range(ranks)]
    for sequence, place in zip(order, places, strict=True):
        dealt[place % ranks][place // ranks].append(sequence)
    return lengths, dealt, draw(st.integers(0, 2**31))


@pytest.mark.parametrize("loss_type", CUT_INVARIANT)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(cut=cuts())
def test_any_cut_gives_the_same_gradient_and_metrics(
    loss_type: str, cut: tuple[list[int], list[list[list[int]]], int]
) -> None:
    lengths, ranks, seed = cut
    batch = make_batch(lengths, seed)
    options = LossOptions(type=loss_type, max_completion_tokens=16, entropy_coef=0.05)
    kl = KL_VARIANTS[seed % len(KL_VARIANTS)]
    whole, whole_metrics = gradient(batch, [[list(range(len(lengths)))]], options, kl)
    parts, parts_metrics = gradient(batch, ranks, options, kl)
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-13)
    assert parts_metrics == pytest.approx(whole_metrics, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loss_type", CUT_INVARIANT)
def test_cut_in_float32_agrees_to_rounding(loss_type: str) -> None:
    lengths = [3, 50, 7, 200, 1, 120, 33, 64]
    batch = make_batch(lengths, 7, torch.float32)
    options = LossOptions(type=loss_type, max_completion_tokens=256, entropy_coef=0.05)
    whole, _ = gradient(batch, [[list(range(8))]], options, KLOptions())
    parts, _ = gradient(batch, [[[3], [0, 1]], [[5, 2, 4], [6, 7]]], options, KLOptions())
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-9)


def test_bnpo_depends_on_the_cut_by_definition() -> None:
    batch = make_batch([4, 3, 9, 5], 3)
    options = LossOptions(type="bnpo")
    whole, _ = gradient(batch, [[[0, 1, 2, 3]]], options, KLOptions())
    same_on_two_ranks, _ = gradient(batch, [[[0, 1, 2, 3]], [[0, 1, 2, 3]]], options, KLOptions())
    cut, _ = gradient(batch, [[[0, 1], [2, 3]]], options, KLOptions())
    torch.testing.assert_close(same_on_two_ranks, whole)  # no W·G in it
    assert (cut - whole).abs().max() > 1e-3


@pytest.mark.parametrize("loss_type", LOSSES)
@pytest.mark.parametrize("kl", KL_VARIANTS)
def test_packed_equals_padded(loss_type: str, kl: KLOptions) -> None:
    batch = make_batch([4, 1, 9, 6], 11)
    every, width = [0, 1, 2, 3], 9
    ids = batch.ids(every)
    column = torch.cat([torch.arange(n) for n in batch.lengths])

    def pad(values: Tensor, fill: float) -> Tensor:
        padded = torch.full((4, width), fill, dtype=values.dtype)
        padded[ids, column] = values
        return padded

    options = LossOptions(type=loss_type, max_completion_tokens=16, entropy_coef=0.05)
    theta = batch.theta.clone().requires_grad_()
    packed = policy_loss_packed(
        theta,
        batch.old,
        batch.advantages,
        ids,
        batch.mask,
        options=options,
        entropy=batch.entropy_slope,
        top_entropy_mask=batch.selected,
        correction_weights=batch.weights,
        ref_logprobs=batch.ref,
        kl_coef=0.3,
        kl_options=kl,
    )
    packed.loss.backward()
    theta_padded = pad(batch.theta, float("nan")).requires_grad_()
    padded = policy_loss(
        theta_padded,
        pad(batch.old, float("nan")),
        batch.advantages,
        pad(batch.mask.double(), 0.0),
        type=loss_type,
        max_completion_tokens=16,
        entropy_coef=0.05,
        entropy=pad(batch.entropy_slope, float("nan")),
        top_entropy_mask=pad(batch.selected.double(), 0.0),
        correction_weights=pad(batch.weights, float("nan")),
        ref_logprobs=pad(batch.ref, float("nan")),
        kl_coef=0.3,
        kl_options=kl,
    )
    padded.loss.backward()
    assert packed.loss.item() == pytest.approx(padded.loss.item(), rel=1e-12)
    assert theta.grad is not None and theta_padded.grad is not None
    torch.testing.assert_close(theta_padded.grad[ids, column], theta.grad)
    assert {k: v.item() for k, v in packed.metrics.items()} == pytest.approx(
        {k: v.item() for k, v in padded.metrics.items()}
    )


def test_packed_without_a_mask_trains_every_token() -> None:
    batch = make_batch([2, 3], 5)
    options = LossOptions()
    ids = batch.ids([0, 1])
    bare = policy_loss_packed(batch.theta, batch.old, batch.advantages, ids, options=options)
    full = policy_loss_packed(batch.theta, batch.old, batch.advantages, ids, torch.ones(5), options=options)
    assert bare.loss.item() == full.loss.item()
    assert bare.metrics["active_tokens"].item() == 5


def test_packed_empty_micro_batch() -> None:
    empty = torch.empty(0, requires_grad=True)
    output = policy_loss_packed(
        empty,
        torch.empty(0),
        torch.empty(0),
        torch.empty(0, dtype=torch.long),
        options=LossOptions(),
        denominators=Denominators(active_tokens=100, active_sequences=4, scale=8),
    )
    output.loss.backward()
    assert output.loss.item() == 0.0
