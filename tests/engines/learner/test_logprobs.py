"""Chunked log-probs and entropies against plain log-softmax, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch

from bolt_ray.engines.learner.logprobs import LogitShape, LogProbHead, chunked_logprobs

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


FILTERS = [
    LogitShape(min_p=0.2),
    LogitShape(top_k=3),
    LogitShape(top_p=0.7),
    LogitShape(temperature=0.8, min_p=0.02, top_k=6, top_p=0.9, softcap=4.0),
]


def test_filtered_by_hand() -> None:
    """Probabilities .4 .3 .2 .1 (and the target always kept)."""
    hidden = torch.ones(4, 1)
    weight = torch.log(torch.tensor([[0.4], [0.3], [0.2], [0.1]]))
    targets = torch.tensor([0, 1, 2, 3])
    expected = {
        LogitShape(top_k=2): [4 / 7, 3 / 7, 2 / 9, 1 / 8],
        LogitShape(top_p=0.65): [4 / 7, 3 / 7, 2 / 9, 1 / 8],
        LogitShape(min_p=0.45): [4 / 9, 3 / 9, 2 / 9, 0.1],
        LogitShape(top_k=3, top_p=0.5): [4 / 7, 3 / 7, 2 / 9, 1 / 8],  # top-p of .444 .333 .222
    }
    for shape, probabilities in expected.items():
        logprobs, entropy = chunked_logprobs(hidden, weight, targets, shape=shape)
        torch.testing.assert_close(logprobs.exp(), torch.tensor(probabilities))
        assert entropy[0].item() == pytest.approx(
            -sum(p * math.log(p) for p in probabilities[:2]) if shape.min_p == 0 else 1.0608569, abs=1e-5
        )


@pytest.mark.parametrize("shape", FILTERS)
def test_filtered_gradients_are_those_over_the_kept_tokens(shape: LogitShape) -> None:
    hidden, weight, _, targets = inputs()
    by_logprob, by_entropy = torch.randn(2, 7, generator=torch.Generator().manual_seed(1))
    ours = chunked_logprobs(hidden, weight, targets, shape=shape, chunk_tokens=3)
    ours_grad = torch.autograd.grad((ours[0] * by_logprob + ours[1] * by_entropy).sum(), (hidden, weight))

    logits = hidden @ weight.T
    if shape.softcap is not None:
        logits = torch.tanh(logits / shape.softcap) * shape.softcap
    logits = logits / shape.temperature
    kept = (logits >= shape.threshold(logits.detach())).scatter(1, targets[:, None], True)
    assert 7 < int(kept.sum()) < 77
    logp = torch.log_softmax(logits.masked_fill(~kept, -1e30), -1)
    theirs = logp.gather(1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)
    their_grad = torch.autograd.grad((theirs[0] * by_logprob + theirs[1] * by_entropy).sum(), (hidden, weight))
    for first, second in zip((*ours, *ours_grad), (*theirs, *their_grad), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=2e-5)


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


def test_bfloat16_weights_get_log_probs_and_gradients_near_those_of_float32() -> None:
    hidden, weight, _, targets = inputs(tokens=64)
    low = [tensor.detach().bfloat16().requires_grad_() for tensor in (hidden, weight)]
    logprobs, entropy = chunked_logprobs(low[0], low[1], targets, chunk_tokens=5)
    assert logprobs.dtype == entropy.dtype == torch.float32
    logprobs.sum().backward()
    theirs, _ = plain(low[0].float(), low[1].float(), None, targets, LogitShape())
    torch.testing.assert_close(logprobs, theirs.detach(), rtol=0.02, atol=0.05)
    expected = torch.autograd.grad(theirs.sum(), low[1])[0].float()
    torch.testing.assert_close(low[1].grad.float(), expected, rtol=0.02, atol=0.1)


def test_bfloat16_accumulates_in_float32() -> None:
    """1,024 chunks of one token, each adding exactly 1/2 to one row and -1/2 to the other.

    A bfloat16 sum would stop at 128: the next number is 129, and 128.5 rounds back.
    """
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    weight, bias = (torch.zeros(size, dtype=torch.bfloat16, requires_grad=True) for size in ((2, 1), (2,)))
    logprobs, _ = chunked_logprobs(hidden, weight, torch.zeros(1024, dtype=torch.int64), bias=bias, chunk_tokens=1)
    logprobs.sum().backward()
    assert weight.grad.tolist() == [[512.0], [-512.0]]
    assert bias.grad.tolist() == [512.0, -512.0]


def test_head_without_targets_gives_plain_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = torch.nn.Linear(5, 11, bias=False)
    head = LogProbHead(linear, shape=LogitShape(temperature=0.5))
    hidden = torch.randn(2, 3, 5, generator=generator)
    torch.testing.assert_close(head(hidden), linear(hidden))
    assert dict(head.named_parameters()).keys() == {"weight"}
    assert head.weight is linear.weight


@pytest.mark.vllm
@pytest.mark.parametrize(("top_k", "top_p"), [(5, 1.0), (0, 0.8), (20, 0.9), (64, 0.3)])
def test_vllm_keeps_the_same_tokens(top_k: int, top_p: float) -> None:
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p_pytorch

    logits = 3.0 * torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    theirs = apply_top_k_top_p_pytorch(
        logits.clone(), torch.full((200,), top_k or 64), None if top_p == 1.0 else torch.full((200,), top_p)
    )
    threshold = LogitShape(top_k=top_k, top_p=top_p).threshold(logits)
    assert torch.equal(logits >= threshold, torch.isfinite(theirs))
