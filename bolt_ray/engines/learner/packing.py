"""From columnar batches to the tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bolt_ray.core.batching import MicroBatchPlan
from bolt_ray.core.records import TrainingBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenColumns:
    """The tokens of n sequences, end to end.

    Attributes:
        token_ids: int64 [Σ lengths], each sequence's prompt followed by its completion.
        starts: int64 [n], where each sequence begins in ``token_ids``.
        prompt_lengths, completion_lengths, lengths: int64 [n].
        completion_starts: int64 [n], where each completion begins in a [Σ completion_lengths] column.
    """

    token_ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    prompt_lengths: NDArray[np.int64]
    completion_lengths: NDArray[np.int64]
    lengths: NDArray[np.int64]
    completion_starts: NDArray[np.int64]

    @property
    def num_sequences(self) -> int:
        return int(self.lengths.shape[0])

    @property
    def num_completion_tokens(self) -> int:
        return int(self.completion_lengths.sum())

    @classmethod
    def build(
        cls,
        token_ids: NDArray[np.integer],
        prompt_lengths: NDArray[np.integer],
        completion_lengths: NDArray[np.integer],
    ) -> TokenColumns:
        """Check and index flat columns.

        Args:
            token_ids: int [Σ lengths], each sequence's prompt followed by its completion.
            prompt_lengths, completion_lengths: int [n].

        Raises:
            ValueError: lengths that do not add up, or an empty prompt (its first completion token would have
                nothing to be predicted from).
        """
        prompts, completions = prompt_lengths.astype(np.int64), completion_lengths.astype(np.int64)
        lengths = prompts + completions
        if prompts.shape != completions.shape or int(lengths.sum()) != token_ids.shape[0]:
            raise ValueError(
                f"{token_ids.shape[0]} tokens do not match prompt and completion lengths, {lengths.sum()} in all"
            )
        if prompts.size and (prompts.min() < 1 or completions.min() < 0):
            raise ValueError("every sequence needs a prompt of at least one token and no negative length")
        return cls(
            token_ids=token_ids.astype(np.int64),
            starts=np.cumsum(lengths) - lengths,
            prompt_lengths=prompts,
            completion_lengths=completions,
            lengths=lengths,
            completion_starts=np.cumsum(completions) - completions,
        )

    @classmethod
    def of_batch(cls, batch: TrainingBatch) -> TokenColumns:
        """The columns of a training batch.

        Raises:
            ValueError: lengths that do not add up, or other columns of another length.
        """
        columns = cls.build(batch.token_ids, batch.prompt_lengths, batch.completion_lengths)
        count = columns.num_sequences
        if batch.behavior_logprobs.shape[0] != columns.num_completion_tokens:
            raise ValueError(
                f"{batch.behavior_logprobs.shape[0]} behavior log-probs for "
                f"{columns.num_completion_tokens} completion tokens"
            )
        if not batch.advantages.shape[0] == batch.active.shape[0] == batch.rewards.shape[0] == count:
            raise ValueError(f"advantages, active and rewards must have one entry for each of {count} sequences")
        return columns

    @classmethod
    def of_sequences(cls, sequences: Sequence[NDArray[np.integer]], prompt_lengths: Sequence[int]) -> TokenColumns:
        """From int [P_i + T_i], prompt and completion, for each sequence, and its P_i."""
        prompts = np.asarray(prompt_lengths, dtype=np.int64)
        lengths = np.array([len(tokens) for tokens in sequences], dtype=np.int64)
        flat = np.concatenate([np.asarray(tokens, dtype=np.int64) for tokens in sequences] or [np.empty(0, np.int64)])
        return cls.build(flat, prompts, lengths - prompts)


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """The tensors of one forward pass over R rows of L tokens, and where its results belong.

    Attributes:
        input_ids: int64 [R, L]; padding is token 0, behind everything.
        position_ids: int64 [R, L], restarting at each sequence; None where no row holds two.
        predict: int64 [n], positions in the flattened [R·L] rows that predict a completion token.
        targets: int64 [n], those tokens.
        sequence_ids: int64 [n], 0 … len(sequences)-1.
        sequences: int64 [S], index of each sequence in the batch.
        token_index: int64 [n], place of each target in a column over all completion tokens of the batch.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    predict: Tensor
    targets: Tensor
    sequence_ids: Tensor
    sequences: NDArray[np.int64]
    token_index: NDArray[np.int64]


def ragged_arange(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """[0 … l₀-1, 0 … l₁-1, …]."""
    total = int(lengths.sum())
    return np.arange(total, dtype=np.int64) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def build_micro_batch(columns: TokenColumns, plan: MicroBatchPlan, *, device: torch.device) -> MicroBatch:
    """Lay the sequences of ``plan`` into rows.

    An empty plan gives one padding token that predicts nothing of interest, so that a rank without work still
    enters every collective of the forward and backward pass.
    """
    if not plan.rows:
        none = torch.zeros(0, dtype=torch.int64, device=device)
        return MicroBatch(
            input_ids=torch.zeros(1, 1, dtype=torch.int64, device=device),
            position_ids=None,
            predict=none,
            targets=none,
            sequence_ids=none,
            sequences=np.empty(0, np.int64),
            token_index=np.empty(0, np.int64),
        )
    sequences = np.array([index for row in plan.rows for index in row], dtype=np.int64)
    lengths = columns.lengths[sequences]
    row_of = np.repeat(np.arange(len(plan.rows)), [len(row) for row in plan.rows])
    ends = np.cumsum(lengths)
    first_of_row = np.searchsorted(row_of, row_of)
    column_of = (ends - lengths) - (ends - lengths)[first_of_row]
    base = row_of * plan.row_length + column_of

    within = ragged_arange(lengths)
    place = np.repeat(base, lengths) + within
    flat = np.zeros(len(plan.rows) * plan.row_length, dtype=np.int64)
    flat[place] = columns.token_ids[np.repeat(columns.starts[sequences], lengths) + within]
    positions = None
    if plan.packed:
        used = np.bincount(row_of, weights=lengths, minlength=len(plan.rows)).astype(np.int64)
        # Padding counts up from 0 like a sequence of its own, so attention keeps it apart from the real ones.
        grid = np.arange(plan.row_length) - used[:, None]
        positions = grid.reshape(-1)
        positions[place] = within

    completions = columns.completion_lengths[sequences]
    step = ragged_arange(completions)
    predict = np.repeat(base + columns.prompt_lengths[sequences] - 1, completions) + step
    shape = (len(plan.rows), plan.row_length)

    def tensor(values: NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, dtype=np.int64)).to(device, non_blocking=True)

    return MicroBatch(
        input_ids=tensor(flat.reshape(shape)),
        position_ids=None if positions is None else tensor(positions.reshape(shape)),
        predict=tensor(predict),
        targets=tensor(flat[predict + 1]),
        sequence_ids=tensor(np.repeat(np.arange(sequences.shape[0]), completions)),
        sequences=sequences,
        token_index=np.repeat(columns.completion_starts[sequences], completions) + step,
    )
