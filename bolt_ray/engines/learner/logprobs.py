"""Log-probabilities and entropy from hidden states, a chunk of tokens at a time.

The logits of n tokens over a vocabulary V are n·V numbers, and a plain log-softmax holds them three times over
(logits, probabilities, gradient). Here a chunk of tokens goes through the output head, gives its log-probs and
entropies, and is freed; the backward pass computes the chunk again. Only [n] and [V, H] tensors are kept.
Arithmetic after the matrix product is float32, and so is the accumulation of the weight gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = 2**25
"""Logits held at a time: 32 Mi numbers, 128 MiB in float32, 223 tokens of a vocabulary of 150,000."""


Extra = Literal["nothing", "entropy", "plain"]
"""What a pass computes in addition to the log-probs: zeros, entropies, or log-probs of the model without temperature
and filters (from the same hidden states)."""

_OUT = -1e30
"""Logit of a token that sampling had removed: probability 0, and finite, so that 0 times it is 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogitShape:
    """How model and sampling change the product of hidden state and output weight before the softmax.

    ``z = cap·tanh(scale·h·Wᵀ / cap)`` with a cap (Gemma 2), else ``scale·h·Wᵀ`` (Cohere, Granite). Sampling
    divides by the temperature and keeps some tokens, and so do we: log-probs must be those of the distribution
    that was sampled from, normalized over what was kept.

    Attributes:
        scale, softcap: of the model.
        temperature: of sampling.
        min_p: keep tokens with at least this share of the largest probability; 0 for all.
        top_k: then the k likeliest; 0 for all.
        top_p: then the likeliest that together reach this probability; 1 for all.
    """

    scale: float = 1.0
    softcap: float | None = None
    temperature: float = 1.0
    min_p: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    @property
    def keeps_all(self) -> bool:
        return self.min_p == 0.0 and self.top_k == 0 and self.top_p == 1.0

    @property
    def plain(self) -> LogitShape:
        """The model alone: temperature 1, no token removed."""
        return LogitShape(scale=self.scale, softcap=self.softcap)

    def threshold(self, logits: Tensor) -> Tensor:
        """The smallest logit kept, [c, 1], by min-p, top-k and top-p in vLLM's order."""
        threshold = torch.full_like(logits[:, :1], -torch.inf)
        if self.min_p > 0.0:
            threshold = logits.amax(dim=-1, keepdim=True) + math.log(self.min_p)
        if 0 < self.top_k < logits.shape[-1]:
            threshold = torch.maximum(threshold, logits.topk(self.top_k, dim=-1).values[:, -1:])
        if self.top_p < 1.0:
            ascending = logits.masked_fill(logits < threshold, -torch.inf).sort(dim=-1).values
            dropped = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1.0 - self.top_p
            dropped[:, -1] = False
            threshold = ascending.masked_fill(dropped, torch.inf).amin(dim=-1, keepdim=True)
        return threshold

    def restrict(self, logits: Tensor, targets: Tensor, threshold: Tensor) -> Tensor:
        """Remove the tokens below the threshold, in place.

        The sampled token always stays: the generator kept it, and rounding (or a policy that has moved on) must
        not turn its log-prob into minus infinity.
        """
        kept = (logits >= threshold).scatter_(1, targets[:, None], True)
        return logits.masked_fill_(~kept, _OUT)

    def apply(self, product: Tensor) -> Tensor:
        """float32 logits of a raw product [c, V]; the input is overwritten when it is float32 already."""
        logits = product.float()
        factor = self.scale if self.softcap is not None else self.scale / self.temperature
        if factor != 1.0:
            logits = logits.mul_(factor)
        if self.softcap is not None:
            logits = logits.div_(self.softcap).tanh_().mul_(self.softcap / self.temperature)
        return logits

    def pull_back(self, grad: Tensor, logits: Tensor) -> Tensor:
        """Gradient by the raw product from that by the logits, in place."""
        if self.softcap is None:
            factor = self.scale / self.temperature
            return grad if factor == 1.0 else grad.mul_(factor)
        # Clamped for tokens that were removed; their gradient is 0.
        tanh = (logits * (self.temperature / self.softcap)).clamp_(-1.0, 1.0)
        return grad.mul_(1.0 - tanh.square_()).mul_(self.scale / self.temperature)


class _ChunkedLogProbs(torch.autograd.Function):
    """(hidden [n, H], weight [V, H], bias [V] or None, targets [n]) → (log-probs [n], entropy [n]), float32."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        shape: LogitShape,
        chunk_tokens: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        count = hidden.shape[0]
        logprobs = hidden.new_empty(count, dtype=torch.float32)
        entropy = hidden.new_zeros(count, dtype=torch.float32)
        normalizer = hidden.new_empty(count, dtype=torch.float32)
        threshold = hidden.new_empty(0 if shape.keeps_all else count, 1, dtype=torch.float32)
        for start in range(0, count, chunk_tokens):
            part = slice(start, start + chunk_tokens)
            logits = shape.apply(_product(hidden[part], weight, bias))
            if not shape.keeps_all:
                threshold[part] = shape.threshold(logits)
                shape.restrict(logits, targets[part], threshold[part])
            normalizer[part] = torch.logsumexp(logits, dim=-1)
            picked = logits.gather(1, targets[part, None])[:, 0]
            logprobs[part] = picked - normalizer[part]
            if with_entropy:
                probs = (logits - normalizer[part, None]).exp_()
                entropy[part] = normalizer[part] - torch.einsum("cv,cv->c", probs, logits)
        ctx.save_for_backward(hidden, weight, bias, targets, normalizer, entropy, threshold)
        ctx.shape, ctx.chunk_tokens = shape, chunk_tokens
        ctx.set_materialize_grads(False)
        if not with_entropy:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalizer, entropy, threshold = ctx.saved_tensors
        by_logprob, by_entropy = grads
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if need_bias else None
        if by_logprob is None:
            by_logprob = torch.zeros_like(normalizer)
        for start in range(0, hidden.shape[0], ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            logits = ctx.shape.apply(_product(hidden[part], weight, bias))
            if not ctx.shape.keeps_all:
                ctx.shape.restrict(logits, targets[part], threshold[part])
            delta = (logits - normalizer[part, None]).exp_()
            # d log p_t / dz = 1[t] - p   and   dH / dz = -p (log p + H)
            if by_entropy is None:
                delta.mul_(-by_logprob[part, None])
            else:
                inner = logits + (entropy[part] - normalizer[part])[:, None]
                inner.mul_(by_entropy[part, None]).add_(by_logprob[part, None])
                delta.mul_(inner.neg_())
                del inner
            delta.scatter_add_(1, targets[part, None], by_logprob[part, None])
            delta = ctx.shape.pull_back(delta, logits)
            del logits
            if grad_bias is not None:
                grad_bias += delta.sum(dim=0)
            delta = delta.to(weight.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = delta @ weight
            if grad_weight is not None:
                if weight.dtype == torch.float32:
                    grad_weight.addmm_(delta.T, hidden[part])
                else:
                    grad_weight += delta.T @ hidden[part]
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            None,
            None,
            None,
            None,
        )


def _product(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(hidden, weight, bias)


def chunked_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    shape: LogitShape | None = None,
    chunk_tokens: int | None = None,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """log π(target) and the entropy of π at each token, without the whole [n, V] logits.

    Args:
        hidden: [n, H] last hidden states, each at the position that predicts its target.
        weight: [V, H] output embedding.
        targets: int64 [n].
        bias: [V], if the head has one.
        shape: scale, cap and temperature; none of them by default.
        chunk_tokens: tokens at a time; by default what makes `CHUNK_ELEMENTS` logits.
        with_entropy: False leaves the entropies 0 and saves a pass over the probabilities.

    Returns:
        float32 [n] log-probs and float32 [n] entropies, both differentiable.
    """
    tokens = chunk_tokens or max(1, CHUNK_ELEMENTS // weight.shape[0])
    apply: Any = _ChunkedLogProbs.apply
    logprobs, entropy = apply(hidden, weight, bias, targets, shape or LogitShape(), tokens, with_entropy)
    return logprobs, entropy


class LogProbHead(nn.Module):
    """Takes the place of a model's output layer, with the same parameters under the same names.

    With targets [n] it returns log-probs [n], computed in chunks, and the second quantity [n] that ``extra`` names;
    without targets it returns logits [..., V] as the layer it replaces. As a module it lets DeepSpeed gather its
    (partitioned) weight around both passes.
    """

    def __init__(self, linear: nn.Linear, *, shape: LogitShape) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.shape = shape

    def forward(
        self, hidden: Tensor, targets: Tensor | None = None, extra: Extra = "entropy"
    ) -> Tensor | tuple[Tensor, Tensor]:
        if targets is None:
            return _product(hidden, self.weight, self.bias)
        logprobs, entropy = self._logprobs(hidden, targets, self.shape, with_entropy=extra == "entropy")
        if extra != "plain":
            return logprobs, entropy
        if self.shape == self.shape.plain:
            return logprobs, logprobs
        return logprobs, self._logprobs(hidden, targets, self.shape.plain, with_entropy=False)[0]

    def _logprobs(
        self, hidden: Tensor, targets: Tensor, shape: LogitShape, *, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        return chunked_logprobs(hidden, self.weight, targets, bias=self.bias, shape=shape, with_entropy=with_entropy)
