"""Numbers a loss reports: sums that may be added over micro-batches and ranks, and their summary."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.sequence_sums import MAX_EXPONENT

declare_metrics(
    {
        "loss/policy": (
            "loss",
            "policy term of the loss, summed over the step's batch; about 0 where the policy is the one that generated",
        ),
        "loss/kl": ("loss", "KL term, with its coefficient"),
        "loss/entropy": ("loss", "entropy bonus, with its coefficient"),
        "loss/total": ("loss", "sum of the three parts"),
        "policy/clip_fraction": ("share of tokens", "trained tokens whose gradient clipping took away"),
        "loss/clip_high_fraction": (
            "share of tokens",
            "trained tokens whose gradient clipping took away as they had become more likely, of policy/clip_fraction",
        ),
        "loss/clip_low_fraction": ("share of tokens", "the same, of those that had become less likely"),
        "policy/ratio_ess": (
            "share",
            "effective sample size of the ratios π/π_old over the number of tokens, (Σr)²/(N Σr²); 1 when on-policy",
        ),
        "policy/entropy": ("nats", "mean entropy of the policy at the trained tokens; where it is computed"),
        "adaptive_kl/raw_kl": (
            "nats",
            "KL to the reference, by k3 whatever is penalized: per token, or per sequence with kl.unit sequence",
        ),
        "adaptive_kl/adapted_kl": ("nats", "what is penalized: after estimator and shape, before the coefficient"),
    }
)

SUM_KEYS = (
    "active_tokens",
    "active_sequences",
    "clipped_tokens",
    "clipped_high_tokens",
    "ratio_sum",
    "ratio_sq_sum",
    "entropy_sum",
    "entropy_count",
    "raw_kl_sum",
    "adapted_kl_sum",
    "raw_kl_count",
    "adapted_kl_count",
    "policy_loss",
    "kl_loss",
    "entropy_loss",
    "local_batches",
)
"""Keys of ``LossOutput.metrics``: always all of them, so that ranks can add them as one vector."""


def ratio_sums(log_ratio: Tensor) -> dict[str, Tensor]:
    """Σr and Σr² of log-ratios [T]."""
    ratio = torch.exp(log_ratio.detach().clamp(max=MAX_EXPONENT))
    return {"ratio_sum": ratio.sum(), "ratio_sq_sum": ratio.square().sum()}


def add_sums(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """Add the metrics of several micro-batches; {} for none."""
    total: dict[str, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0.0) + float(value)
    return total


def summarize(sums: Mapping[str, float]) -> dict[str, float]:
    """Sums over the whole optimizer step to the numbers that are logged.

    ``loss/policy``, ``loss/kl`` and ``loss/entropy`` are the three parts of ``loss/total`` with their
    coefficients applied. ``policy/ratio_ess`` is (Σr)²/(N Σr²), 1 when on-policy. What has no evidence (no
    active token, no KL, no entropy) is left out rather than reported as 0.
    """
    metrics: dict[str, float] = {}
    tokens = sums["active_tokens"]
    # bnpo's micro-batch losses are means already: they are averaged, the other types' parts are added.
    batches = sums["local_batches"] or 1.0
    metrics["loss/policy"] = sums["policy_loss"] / batches
    metrics["loss/kl"] = sums["kl_loss"] / batches
    metrics["loss/entropy"] = sums["entropy_loss"] / batches
    metrics["loss/total"] = metrics["loss/policy"] + metrics["loss/kl"] + metrics["loss/entropy"]
    if tokens > 0:
        metrics["policy/clip_fraction"] = sums["clipped_tokens"] / tokens
        metrics["loss/clip_low_fraction"] = (sums["clipped_tokens"] - sums["clipped_high_tokens"]) / tokens
        metrics["loss/clip_high_fraction"] = sums["clipped_high_tokens"] / tokens
        if sums["ratio_sq_sum"] > 0:
            metrics["policy/ratio_ess"] = sums["ratio_sum"] ** 2 / (tokens * sums["ratio_sq_sum"])
    if sums["entropy_count"] > 0:
        metrics["policy/entropy"] = sums["entropy_sum"] / sums["entropy_count"]
    if sums["raw_kl_count"] > 0:
        metrics["adaptive_kl/raw_kl"] = sums["raw_kl_sum"] / sums["raw_kl_count"]
        metrics["adaptive_kl/adapted_kl"] = sums["adapted_kl_sum"] / sums["adapted_kl_count"]
    return metrics
