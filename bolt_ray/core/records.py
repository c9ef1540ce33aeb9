"""The records that travel between stages, one frozen type per stage.

    Prompt ─▶ RolloutRequest ─▶ Completion ─▶ ScoredCompletion ─▶ TrainingBatch ─▶ StepReport
                                    │              └─ or UnscoredCompletion(reason)
                                    └─ or DroppedCompletion(reason)

A stage returns a new record; it never fills in a field of the one it was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Messages = list[dict[str, str]]
"""Chat messages: ``[{"role": "user", "content": "..."}]``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One row of the prompt store.

    Attributes:
        row: dense row number in the store, from 0.
        key: identity in the baseline store: the ``prompt_id`` column, else ``core.keys.prompt_key(prompt)``.
        prompt: plain text, or chat messages.
        answer: the reference answer handed to the reward functions; "" if the dataset has none.
        source: name of the dataset the row comes from.
        metadata: the row's other columns.
    """

    row: int
    key: str
    prompt: str | Messages
    answer: str = ""
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPrompt:
    """A prompt at its place in the prompt stream, tokenized.

    Attributes:
        draw_id: position in the stream, counted from 0 over the whole run; unique.
        prompt: the row drawn.
        token_ids: int32 [P], the prompt after template and tokenizer.
        num_samples: completions to generate for this draw (K, or the curriculum's allocation).
    """

    draw_id: int
    prompt: Prompt
    token_ids: NDArray[np.int32]
    num_samples: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRequest:
    """One completion asked of a generator.

    Attributes:
        request_id: unique over the run; requests of one step sort by it. Those of an evaluation are below 0.
        drawn: the prompt, tokenized.
        sample_index: 0 … num_samples-1 within the draw.
        v_hat: baseline read at dispatch, in [0, 1].
        n_eff: effective sample count behind ``v_hat``.
        policy_version: the learner's version at dispatch.
        seed: seed of this completion's sampling.
    """

    request_id: int
    drawn: DrawnPrompt
    sample_index: int
    v_hat: float
    n_eff: float
    policy_version: int
    seed: int

    @property
    def for_evaluation(self) -> bool:
        return self.request_id < 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a generator answered.

    Attributes:
        request: the request it answers.
        token_ids: int32 [T], with the end-of-sequence token when the model ended by itself.
        logprobs: float32 [T], log π_generator of each token under the distribution it was sampled from.
        text: the tokens decoded, special tokens left out.
        truncated: True if the length limit ended it.
        oldest_version, newest_version: policy versions of its first and last token.
    """

    request: RolloutRequest
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    text: str
    truncated: bool
    oldest_version: int
    newest_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCompletion:
    """A completion with its reward.

    Attributes:
        completion: what was scored.
        reward: weighted sum of ``parts``, raw (before ``reward_range`` scaling), always finite; the advantage's.
        tracker_reward: the same without shaping parts such as an overlong penalty; the baseline's.
        parts: each reward function's own value by name.
    """

    completion: Completion
    reward: float
    tracker_reward: float
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnscoredCompletion:
    """A completion no reward could be given to: no evidence, never a zero."""

    completion: Completion
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedCompletion:
    """A completion that will not be trained on, and why ("stale", "unscored", "lost")."""

    request: RolloutRequest
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageInputs:
    """What the advantages of a batch are made of, to make them again where the learner changes the rewards.

    Attributes:
        rewards: float64 [B], scaled r̃ with shaping.
        v_hat, n_eff: float64 [B], the baseline at dispatch.
        group_ids: int64 [B], equal for completions of one draw.
    """

    rewards: NDArray[np.float64]
    v_hat: NDArray[np.float64]
    n_eff: NDArray[np.float64]
    group_ids: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """One optimizer-step batch over all ranks, ragged and columnar; B sequences.

    Attributes:
        step: optimizer step this batch is for, from 0.
        token_ids: int32 [Σ lengths], each sequence's prompt followed by its completion.
        prompt_lengths: int32 [B].
        completion_lengths: int32 [B].
        behaviour_logprobs: float32 [Σ completion_lengths], the generator's own.
        advantages: float32 [B], final: normalized and clipped over the global batch.
        active: bool [B]; False leaves a sequence out of the loss and of every denominator.
        rewards: float32 [B], raw; for controllers and metrics only.
        advantage_inputs: for a KL penalty in the reward, which only the learner can take; None without one.
    """

    step: int
    token_ids: NDArray[np.int32]
    prompt_lengths: NDArray[np.int32]
    completion_lengths: NDArray[np.int32]
    behaviour_logprobs: NDArray[np.float32]
    advantages: NDArray[np.float32]
    active: NDArray[np.bool_]
    rewards: NDArray[np.float32]
    advantage_inputs: AdvantageInputs | None = None

    @property
    def num_sequences(self) -> int:
        return int(self.prompt_lengths.shape[0])

    @property
    def lengths(self) -> NDArray[np.int32]:
        """int32 [B]: prompt plus completion."""
        return self.prompt_lengths + self.completion_lengths


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What the learner says of one optimizer step, the same on every rank.

    Attributes:
        step: the step trained.
        skipped: True if a non-finite loss or gradient left the weights untouched.
        metrics: ``loss/*``, ``policy/*``, ``adaptive_kl/*`` and ``optim/*`` numbers.
        logprobs_before: float32 [Σ completion_lengths], log π of the batch's tokens before its first update, by the
            training pass itself; NaN for tokens that no pass went over before that update.
    """

    step: int
    skipped: bool
    metrics: Mapping[str, float]
    logprobs_before: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptColumns:
    """What is known about every prompt of a data set, one array entry per prompt, all of length n.

    Attributes:
        v_hat: float32 ``[n]``, the tracked success rate in [0, 1].
        n_eff: float32 ``[n]``, how many observations the estimate is worth.
        visits: int32 ``[n]``, how many groups of the prompt were scored.
        solved_streak: int32 ``[n]``, consecutive visits in which every sample was right.
        last_version: int32 ``[n]``, the policy version of the last visit, -1 for a prompt never seen.
        category: int32 ``[n]`` category index, or None when the data has no categories.

    Raises:
        ValueError: A column is not one-dimensional or differs in length from ``v_hat``.
    """

    v_hat: NDArray[np.float32]
    n_eff: NDArray[np.float32]
    visits: NDArray[np.int32]
    solved_streak: NDArray[np.int32]
    last_version: NDArray[np.int32]
    category: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        shape = self.v_hat.shape
        if len(shape) != 1:
            raise ValueError(f"v_hat has shape {shape}; every prompt column is one-dimensional")
        others = (self.n_eff, self.visits, self.solved_streak, self.last_version, self.category)
        names = ("n_eff", "visits", "solved_streak", "last_version", "category")
        for name, column in zip(names, others, strict=True):
            if column is not None and column.shape != shape:
                raise ValueError(f"{name} has shape {column.shape}, v_hat {shape}; columns have one entry per prompt")

    @property
    def num_prompts(self) -> int:
        """n, the number of prompts."""
        return int(self.v_hat.shape[0])

    @property
    def alpha(self) -> NDArray[np.float32]:
        """float32 ``[n]``, alpha = v_hat * N_eff of the Beta posterior (the weight of successes)."""
        return self.v_hat * self.n_eff

    @property
    def beta(self) -> NDArray[np.float32]:
        """float32 ``[n]``, beta = (1 - v_hat) * N_eff of the Beta posterior (the weight of failures)."""
        return (np.float32(1.0) - self.v_hat) * self.n_eff
