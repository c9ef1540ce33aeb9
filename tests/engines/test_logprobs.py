"""Chunked log-probs and entropies against plain log-softmax, values and gradients."""

from __future__ import annotations

import pytest
import torch

from bolt_ray.engines.logprobs import LogitShape, LogProbHead, chunked_logprobs

SHAPES = [
    LogitShape(),
    LogitShape(temperature=0.7),
    LogitShape(scale=0.5, temperature=1.3),
    LogitShape(softcap=2.0, temperature=0.8),
    LogitShape(softcap=3.0, scale=1.5),
]


def plain(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    targets: torch.Tensor,
    shape: LogitShape,
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias) * shape.scale
    if shape.softcap is not None:
        logits = torch.tanh(logits / shape.softcap) * shape.softcap
    logp = torch.log_softmax(logits / shape.temperature, dim=-1)
    return logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def inputs(tokens: int = 7, *, bias: bool = False) -> tuple:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(tokens, 5, generator=generator, requires_grad=True)
    weight = torch.randn(11, 5, generator=generator, requires_grad=True)
    offset = torch.randn(11, generator=generator, requires_grad=True) if bias else None
    targets = torch.randint(0, 11, (tokens,), generator=generator)
    return hidden, weight, offset, targets


def test_by_hand() -> None:
    hidden = torch.tensor([[1.0, 0.0]])
    weight = torch.tensor([[0.0, 9.0], [0.6931472, 9.0]])  # logits 0 and ln 2: p = 1/3, 2/3
    logprobs, entropy = chunked_logprobs(hidden, weight, torch.tensor([1]))
    assert logprobs.item() == pytest.approx(-0.4054651, abs=1e-6)
    assert entropy.item() == pytest.approx(0.6365142, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients_of_plain_softmax(shape: LogitShape, chunk: int, bias: bool) -> None:
    hidden, weight, offset, targets = inputs(bias=bias)
    by_logprob, by_entropy = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))
    parameters = [tensor for tensor in (hidden, weight, offset) if tensor is not None]

    ours = chunked_logprobs(hidden, weight, targets, bias=offset, shape=shape, chunk_tokens=chunk)
    ours_grad = torch.autograd.grad((ours[0] * by_logprob + ours[1] * by_entropy).sum(), parameters)
    theirs = plain(hidden, weight, offset, targets, shape)
    their_grad = torch.autograd.grad((theirs[0] * by_logprob + theirs[1] * by_entropy).sum(), parameters)

    for first, second in zip((*ours, *ours_grad), (*theirs, *their_grad), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=2e-5)


def test_gradient_of_the_logprob_alone_and_of_the_entropy_alone() -> None:
    for pick in (0, 1):
        hidden, weight, _, targets = inputs()
        ours = chunked_logprobs(hidden, weight, targets, chunk_tokens=2)[pick].sum()
        theirs = plain(hidden, weight, None, targets, LogitShape())[pick].sum()
        for first, second in zip(
            torch.autograd.grad(ours, (hidden, weight)),
            torch.autograd.grad(theirs, (hidden, weight)),
            strict=True,
        ):
            torch.testing.assert_close(first, second, rtol=1e-4, atol=2e-5)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, _, targets = inputs()
    weight = weight.detach()
    logprobs, _ = chunked_logprobs(hidden, weight, targets)
    logprobs.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_no_tokens() -> None:
    hidden, weight, _, targets = inputs(tokens=0)
    logprobs, entropy = chunked_logprobs(hidden, weight, targets)
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert weight.grad.abs().max() == 0.0


def test_bfloat16_accumulates_in_float32() -> None:
    hidden, weight, _, targets = inputs(tokens=64)
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight)]
    logprobs, entropy = chunked_logprobs(low[0], low[1], targets, chunk_tokens=5)
    assert logprobs.dtype == entropy.dtype == torch.float32
    logprobs.sum().backward()
    theirs, _ = plain(low[0].float(), low[1].float(), None, targets, LogitShape())
    torch.testing.assert_close(logprobs, theirs.detach(), rtol=0.02, atol=0.05)
    expected = torch.autograd.grad(theirs.sum(), low[1])[0].float()
    torch.testing.assert_close(low[1].grad.float(), expected, rtol=0.02, atol=0.1)


def test_head_without_targets_gives_plain_logits() -> None:
    linear = torch.nn.Linear(5, 11, bias=False)
    head = LogProbHead(linear, shape=LogitShape(temperature=0.5))
    hidden = torch.randn(2, 3, 5)
    torch.testing.assert_close(head(hidden), linear(hidden))
    assert dict(head.named_parameters()).keys() == {"weight"}
    assert head.weight is linear.weight
