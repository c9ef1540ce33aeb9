"""Forward and backward passes of a learner over one batch, cut into micro-batches.

Every rank holds the whole batch as columns, plans all micro-batches, and runs its own. Columns that come out
(log-probs, entropies) are put together over the ranks, so that everything after is the same on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from bolt_ray.core.batching import MicroBatchPlan, plan_micro_batches
from bolt_ray.core.correction_options import CorrectionOptions
from bolt_ray.core.corrections import old_policy
from bolt_ray.core.kl import KLOptions
from bolt_ray.core.losses import Denominators, LossOptions, policy_loss_packed
from bolt_ray.engines.learner.logprobs import Extra
from bolt_ray.engines.learner.packing import MicroBatch, TokenColumns, build_micro_batch

Column = NDArray[np.float32]


def sum_over_ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """Element-wise sum of one array over all ranks, in float64."""
    if dist.get_world_size() == 1:
        return values.astype(np.float64)
    tensor = torch.from_numpy(values.astype(np.float64))
    if dist.get_backend() == "nccl":
        tensor = tensor.cuda()
    dist.all_reduce(tensor)
    total: NDArray[np.float64] = tensor.cpu().numpy()
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlanner:
    """How a pass is cut into micro-batches.

    Attributes:
        token_budget: tokens of one micro-batch, padding included.
        packing: several sequences to a row.
        row_capacity: longest packed row; None for as long as the longest sequence.
    """

    token_budget: int
    packing: bool
    row_capacity: int | None

    def plan(self, columns: TokenColumns, indices: NDArray[np.int64]) -> tuple[list[MicroBatchPlan], int]:
        """This rank's micro-batches, and how many hold anything over all ranks."""
        ranks = plan_micro_batches(
            columns.lengths,
            indices,
            num_ranks=dist.get_world_size(),
            token_budget=self.token_budget,
            pack=self.packing,
            row_capacity=self.row_capacity if self.packing else None,
        )
        busy = sum(1 for plans in ranks for plan in plans if plan.rows)
        # Empty ones first: a rank with work ends with work, whose gradient carries the NaN flag (see `accumulate`).
        return sorted(ranks[dist.get_rank()], key=lambda plan: bool(plan.rows)), busy


def _run(policy: Any, batch: MicroBatch, *, extra: Extra) -> tuple[Tensor, Tensor, Tensor]:
    """See ``PolicyModule.forward``."""
    outputs: tuple[Tensor, Tensor, Tensor] = policy(
        batch.input_ids, batch.position_ids, batch.predict, batch.targets, extra=extra
    )
    return outputs


def _fill(column: Column, parts: list[tuple[MicroBatch, Tensor]]) -> Column:
    """Copy per-token results to the host in one transfer, and into their places in ``column``."""
    if parts:
        values = torch.cat([tensor for _, tensor in parts]).float().cpu().numpy()
        column[np.concatenate([batch.token_index for batch, _ in parts])] = values
    return column


@torch.no_grad()
def score_columns(
    policy: Any,
    columns: TokenColumns,
    indices: NDArray[np.int64],
    *,
    planner: PassPlanner,
    device: torch.device,
    extra: Extra = "nothing",
) -> tuple[Column, Column]:
    """Log-probs of every completion token of the chosen sequences, and ``extra`` (see `Extra`), without gradient.

    Args:
        policy: the engine or module to call.
        indices: int64, the sequences to score; the tokens of the others stay 0.

    Returns:
        Two float32 [Σ completion_lengths] columns, the same on every rank.
    """
    plans, _ = planner.plan(columns, indices)
    logprob_parts: list[tuple[MicroBatch, Tensor]] = []
    second_parts: list[tuple[MicroBatch, Tensor]] = []
    for plan in plans:
        batch = build_micro_batch(columns, plan, device=device)
        logprobs, second, _ = _run(policy, batch, extra=extra)
        logprob_parts.append((batch, logprobs))
        second_parts.append((batch, second))
    count = columns.num_completion_tokens
    mine = np.zeros((1 if extra == "nothing" else 2, count), dtype=np.float32)
    _fill(mine[0], logprob_parts)
    if extra != "nothing":
        _fill(mine[1], second_parts)
    whole = sum_over_ranks(mine).astype(np.float32)
    return whole[0], np.zeros(count, dtype=np.float32) if extra == "nothing" else whole[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateInputs:
    """What the optimizer steps of one batch train on; columns are [Σ completion_lengths].

    Attributes:
        columns: the tokens.
        behavior: log-probs of the generator.
        advantages: float32 [B].
        before: log-probs of the learner before its first update, where a pass of its own computed them.
        recompute_old: π_old is the learner before its first update, ``before`` if that is there and this very
            forward pass if not (then nothing has been updated yet). False: π_old is the generator.
        reference: log-probs of the reference; None without one.
        entropy: entropies before the first update, to select tokens by; None to train all.
    """

    columns: TokenColumns
    behavior: Column
    advantages: NDArray[np.float32]
    before: Column | None
    recompute_old: bool
    reference: Column | None
    entropy: Column | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOptions:
    """The loss, unchanged over a run."""

    loss: LossOptions
    kl: KLOptions
    correction: CorrectionOptions
    router_aux_loss_coef: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulated:
    """Results of the passes of one optimizer step, on this rank.

    Attributes:
        sums: additive metrics of the loss and of the correction.
        logprobs: this rank's new log-probs, float32 [Σ completion_lengths]; 0 elsewhere.
    """

    sums: Mapping[str, Tensor]
    logprobs: Column


def accumulate(
    engine: Any,
    inputs: UpdateInputs,
    indices: NDArray[np.int64],
    *,
    selected: NDArray[np.bool_] | None,
    kl_coef: float,
    options: UpdateOptions,
    planner: PassPlanner,
    device: torch.device,
) -> Accumulated:
    """Run forward and backward over this rank's micro-batches; gradients are left in the engine.

    A NaN flag, 0 as long as every loss is finite, is added to each loss. A non-finite loss anywhere so makes the
    gradient of this rank's last micro-batch NaN; the reduction over ranks spreads it to all of them, and the optimizer
    step is skipped everywhere, with no extra communication.

    Args:
        indices: int64, the sequences of this optimizer step over all ranks.
        selected: bool [Σ completion_lengths], the tokens to train; None for all.
        kl_coef: β of this step.
    """
    plans, busy = planner.plan(inputs.columns, indices)
    world = dist.get_world_size()
    denominators = Denominators(
        active_tokens=float(inputs.columns.completion_lengths[indices].sum()),
        active_sequences=float(indices.shape[0]),
        # The engine averages gradients over ranks and is configured for one accumulation step: W · G = W.
        scale=float(world),
        selected_tokens=None if selected is None else float(selected.sum()),
    )
    sums: dict[str, Tensor] = {}
    parts: list[tuple[MicroBatch, Tensor]] = []
    nan_flag = torch.zeros((), device=device)
    for number, plan in enumerate(plans):
        batch = build_micro_batch(inputs.columns, plan, device=device)
        engine.set_gradient_accumulation_boundary(number == len(plans) - 1)
        logprobs, entropy, balance = _run(engine, batch, extra="entropy")
        loss, metrics = _loss(
            batch,
            logprobs,
            entropy,
            inputs,
            selected=selected,
            kl_coef=kl_coef,
            options=options,
            denominators=denominators,
        )
        if options.loss.resolved_aggregation == "local_token_mean":
            # Each micro-batch's loss is a mean already; together they must be a mean again.
            loss = loss * (world / max(1, busy))
        if options.router_aux_loss_coef > 0.0:
            # A mean over the micro-batch's tokens: its share of the step's tokens makes the parts add up to a mean.
            share = logprobs.shape[0] / max(1.0, denominators.active_tokens)
            loss = loss + options.router_aux_loss_coef * share * world * balance
            metrics = metrics | {"router_balance": share * balance.detach()}
        nan_flag = nan_flag + loss.detach() * 0.0
        engine.backward(loss + nan_flag * logprobs.sum(), scale_wrt_gas=False)
        parts.append((batch, logprobs.detach()))
        for key, value in metrics.items():
            sums[key] = sums[key] + value if key in sums else value
    column = _fill(np.zeros(inputs.columns.num_completion_tokens, dtype=np.float32), parts)
    return Accumulated(sums=sums, logprobs=column)


def _loss(
    batch: MicroBatch,
    logprobs: Tensor,
    entropy: Tensor,
    inputs: UpdateInputs,
    *,
    selected: NDArray[np.bool_] | None,
    kl_coef: float,
    options: UpdateOptions,
    denominators: Denominators,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one micro-batch, and the additive metrics of loss and correction."""

    def tokens(column: NDArray[Any]) -> Tensor:
        return torch.from_numpy(column[batch.token_index]).to(logprobs.device, non_blocking=True)

    recomputed = None
    if inputs.recompute_old:
        recomputed = logprobs.detach() if inputs.before is None else tokens(inputs.before)
    old = old_policy(
        tokens(inputs.behavior),
        recomputed,
        sequence_ids=batch.sequence_ids,
        num_sequences=batch.sequences.shape[0],
        options=options.correction,
    )
    output = policy_loss_packed(
        logprobs,
        old.logprobs,
        torch.from_numpy(inputs.advantages[batch.sequences]).to(logprobs.device),
        batch.sequence_ids,
        options=options.loss,
        entropy=entropy,
        top_entropy_mask=None if selected is None else tokens(selected),
        correction_weights=None if old.correction is None else old.correction.weights,
        ref_logprobs=None if inputs.reference is None else tokens(inputs.reference),
        kl_coef=kl_coef,
        kl_options=options.kl,
        denominators=denominators,
    )
    metrics = dict(output.metrics)
    if old.correction is not None:
        metrics |= old.correction.metrics
    return output.loss, metrics
