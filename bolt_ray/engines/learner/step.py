"""One batch, from columns to applied optimizer steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from bolt_ray.core.advantages import advantages_of
from bolt_ray.core.batching import split_minibatches
from bolt_ray.core.corrections import summarize_correction
from bolt_ray.core.kl import kl_reward_penalty
from bolt_ray.core.kl_controllers import KLController
from bolt_ray.core.losses import entropy_threshold, summarize
from bolt_ray.core.losses.registry import loss_type
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import TrainingBatch
from bolt_ray.engines.learner.agreement import gap_metrics, rounding_metrics
from bolt_ray.engines.learner.logprobs import Extra
from bolt_ray.engines.learner.packing import TokenColumns, ragged_arange
from bolt_ray.engines.learner.passes import (
    Column,
    PassPlanner,
    UpdateInputs,
    UpdateOptions,
    accumulate,
    score_columns,
    sum_over_ranks,
)
from bolt_ray.engines.learner.reference import Reference
from bolt_ray.engines.learner.settings import LearnerSettings

declare_metrics(
    {
        "optim/grad_norm": ("", "global L2 norm of the gradient before it is scaled down"),
        "policy/router_balance": (
            "",
            "load-balancing loss of a mixture of experts on the trained tokens (train.router_aux_loss_coef); it is the "
            "number of experts that a token goes through where all are used evenly",
        ),
    }
)

ROUNDING_SEQUENCES = 4
"""Sequences passed over once more in bfloat16: as many as are compared at a weight sync."""


@dataclass(slots=True, kw_only=True)
class BatchOutcome:
    """Result of training one batch; the same on every rank.

    Attributes:
        applied: optimizer steps applied.
        bad: True if a non-finite loss or gradient ended the batch.
        metrics: one dict per applied optimizer step.
        gap: `gap_metrics` and, in bfloat16, ``policy/rounding`` of the policy before its first update.
        before: float32 [Σ completion_lengths], log-probs of the policy before its first update; NaN for tokens
            that no pass went over before it.
        trained: the sequences of every update, int64 each.
    """

    applied: int = 0
    bad: bool = False
    metrics: list[dict[str, float]] = field(default_factory=list)
    gap: dict[str, float] = field(default_factory=dict)
    before: Column
    trained: list[NDArray[np.int64]] = field(default_factory=list)


class BatchTrainer:
    """Trains batches with an engine; holds no state of its own from one batch to the next."""

    def __init__(
        self,
        *,
        engine: Any,
        trainable: list[torch.nn.Parameter],
        stage: int,
        planner: PassPlanner,
        device: torch.device,
        settings: LearnerSettings,
        controller: KLController,
        reference: Reference | None,
    ) -> None:
        self._engine, self._trainable, self._stage = engine, trainable, stage
        self._planner, self._device, self._settings = planner, device, settings
        self._controller, self._reference = controller, reference
        self._options = UpdateOptions(
            loss=settings.loss,
            kl=settings.kl,
            correction=settings.correction,
            router_aux_loss_coef=settings.train.router_aux_loss_coef,
        )

    def train(self, batch: TrainingBatch) -> BatchOutcome:
        """Pass over the batch's mini-batches until done or until a non-finite loss or gradient."""
        columns = TokenColumns.of_batch(batch)
        active = np.flatnonzero(batch.active & (columns.completion_lengths > 0))
        outcome = BatchOutcome(before=np.full(columns.num_completion_tokens, np.nan, dtype=np.float32))
        if active.shape[0] == 0:
            return outcome
        updates = self._updates(active, step=batch.step)
        inputs = self._inputs(batch, columns, active, several_updates=len(updates) > 1)
        checked = _some(updates[0]) if self._settings.model.dtype == "bfloat16" else None
        again = None if checked is None else self.score(columns, checked)[0]
        for number, indices in enumerate(updates):
            metrics, logprobs = self._accumulate(inputs, indices)
            if number == 0:
                known = logprobs if inputs.before is None else inputs.before
                tokens = completion_tokens(columns, indices if inputs.before is None else active)
                outcome.before[tokens] = known[tokens]
                outcome.gap = gap_metrics(known, batch.behavior_logprobs, tokens)
                if checked is not None and again is not None:
                    outcome.gap |= rounding_metrics(known, again, completion_tokens(columns, checked))
            norm = self._optimizer_step()
            if norm is None:
                outcome.bad = True
                break
            outcome.applied += 1
            outcome.trained.append(indices)
            outcome.metrics.append(metrics | {"optim/grad_norm": norm})
            self._control(metrics, mean_reward=float(batch.rewards[indices].mean()), count=indices.shape[0])
        return outcome

    def score(
        self, columns: TokenColumns, indices: NDArray[np.int64], *, extra: Extra = "nothing"
    ) -> tuple[Column, Column]:
        """Twice float32 [Σ completion_lengths]: `score_columns` by the current policy. Collective."""
        return score_columns(
            self._engine,
            columns,
            indices,
            planner=self._planner,
            device=self._device,
            extra=extra,
        )

    def _updates(self, active: NDArray[np.int64], *, step: int) -> list[NDArray[np.int64]]:
        """The sequences of each optimizer step; the shuffle is that of (seed, step, epoch) on every rank."""
        train, seed = self._settings.train, self._settings.seed
        return [
            part
            for epoch in range(train.ppo_epochs)
            for part in split_minibatches(active, train.minibatch_size, np.random.default_rng((seed, step, epoch)))
        ]

    def _inputs(
        self, batch: TrainingBatch, columns: TokenColumns, active: NDArray[np.int64], *, several_updates: bool
    ) -> UpdateInputs:
        asked = self._settings.train.recompute_old_logprobs
        needed = several_updates or loss_type(self._settings.loss.type).own_old_policy
        recompute = needed if asked is None else asked
        select = self._settings.loss.top_entropy_fraction < 1.0
        before: Column | None = None
        entropy: Column | None = None
        # With a single update the training pass itself gives π_old: no weight has changed yet.
        if (recompute and several_updates) or select:
            before, entropy = self.score(columns, active, extra="entropy" if select else "nothing")
        reference = None
        if self._reference is not None:
            reference = self._reference.logprobs(columns, active, planner=self._planner)
        return UpdateInputs(
            columns=columns,
            behavior=batch.behavior_logprobs,
            advantages=self._advantages(batch, columns, active, reference),
            before=before,
            recompute_old=recompute,
            reference=reference,
            entropy=entropy if select else None,
        )

    def _advantages(
        self,
        batch: TrainingBatch,
        columns: TokenColumns,
        active: NDArray[np.int64],
        reference: Column | None,
    ) -> NDArray[np.float32]:
        """float32 [B], the batch's advantages; recomputed from r − β·Σ_t KL_t where the KL is part of the reward.

        The penalty uses the log-probs of the policy that generated, and is subtracted before baseline and
        normalization as any part of a reward is. The tracker's own evidence is the reward without it.
        """
        if reference is None or self._settings.kl.placement != "reward":
            return batch.advantages
        if batch.advantage_inputs is None:
            raise ValueError("a KL penalty in the reward needs the batch's advantage_inputs")
        tokens = completion_tokens(columns, active)
        penalty = kl_reward_penalty(
            torch.from_numpy(batch.behavior_logprobs[tokens]),
            torch.from_numpy(reference[tokens]),
            sequence_ids=torch.from_numpy(np.repeat(np.arange(active.shape[0]), columns.completion_lengths[active])),
            num_sequences=active.shape[0],
            estimator=self._settings.kl.estimator,
        ).numpy()
        rewards = batch.advantage_inputs.rewards.copy()
        rewards[active] -= self._controller.beta * penalty / self._settings.reward_width
        return advantages_of(
            replace(batch.advantage_inputs, rewards=rewards),
            columns.completion_lengths,
            options=self._settings.advantage,
            active=batch.active,
        ).advantages

    def _accumulate(self, inputs: UpdateInputs, indices: NDArray[np.int64]) -> tuple[dict[str, float], Column]:
        """Gradients of one optimizer step; its metrics and log-probs, summed over the ranks."""
        selected = None
        if inputs.entropy is not None:
            tokens = completion_tokens(inputs.columns, indices)
            values = torch.from_numpy(inputs.entropy[tokens])
            threshold = entropy_threshold(values, self._settings.loss.top_entropy_fraction)
            selected = np.zeros(inputs.entropy.shape, dtype=np.bool_)
            selected[tokens] = inputs.entropy[tokens] >= threshold
        done = accumulate(
            self._engine,
            inputs,
            indices,
            selected=selected,
            kl_coef=self._controller.beta,
            options=self._options,
            planner=self._planner,
            device=self._device,
        )
        sums, logprobs = _over_ranks(done.sums, done.logprobs)
        balance = {"policy/router_balance": sums["router_balance"]} if "router_balance" in sums else {}
        return summarize(sums) | summarize_correction(sums) | balance, logprobs

    def _optimizer_step(self) -> float | None:
        """Clip and step; the gradient norm before clipping, or None if it is not finite and no step was taken."""
        if self._stage > 0:
            self._engine.step()
            return float(self._engine.get_global_grad_norm()) if self._engine.was_step_applied() else None
        # Plain float32 DeepSpeed has no overflow check and would write NaN into the weights.
        norm = float(torch.nn.utils.clip_grad_norm_(self._trainable, self._settings.train.max_grad_norm))
        if not np.isfinite(norm):
            self._engine.zero_grad()
            return None
        self._engine.step()
        return norm

    def _control(self, metrics: Mapping[str, float], *, mean_reward: float, count: int) -> None:
        """One step of the KL controller, after an applied optimizer step."""
        if self._reference is not None:
            self._controller.update(kl=metrics["adaptive_kl/raw_kl"], mean_reward=mean_reward, num_sequences=count)


def completion_tokens(columns: TokenColumns, indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the completion tokens of some sequences in a [Σ completion_lengths] column."""
    lengths = columns.completion_lengths[indices]
    return np.repeat(columns.completion_starts[indices], lengths) + ragged_arange(lengths)


def _some(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """A few of them, from all over."""
    places = np.linspace(0, indices.shape[0] - 1, min(ROUNDING_SEQUENCES, indices.shape[0])).astype(np.int64)
    some: NDArray[np.int64] = indices[places]
    return some


def _over_ranks(sums: Mapping[str, Tensor], logprobs: Column) -> tuple[dict[str, float], Column]:
    """Add additive metrics and columns up over the ranks, in one reduction."""
    vector = torch.stack(list(sums.values())).double().cpu().numpy()
    if dist.get_world_size() == 1:
        return dict(zip(sums, vector.tolist(), strict=True)), logprobs
    whole = sum_over_ranks(np.concatenate([vector, logprobs]))
    cut = vector.shape[0]
    return dict(zip(sums, whole[:cut].tolist(), strict=True)), whole[cut:].astype(np.float32)
