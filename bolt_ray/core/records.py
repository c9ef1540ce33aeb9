"""The records that travel between stages, one frozen type per stage.

    DrawnPrompt ─▶ GenerationRequest ─▶ Completion ─▶ ScoredCompletion ─▶ ScoredRollout ─▶ TrainingBatch ─▶ StepReport
                   (to an engine)       (its answer)   UnscoredCompletion   UnscoredRollout └▶ Outcomes ─▶ baseline

A stage returns a new record; it never fills in a field of the one it was given. Across processes go the request and
the completion, which know each other by ``request_id``. What was read at dispatch (v̂, N_eff, version, group) stays in
the rollout loop's table of requests in flight and joins the completion there, in a ``ScoredRollout``.

Three log-probabilities of one token, by when and by whom they are computed:

    behavior          the generator, when it sampled the token          Completion.logprobs,
                      (its version may be older than the learner's)     TrainingBatch.behavior_logprobs
    old (proximal)    the learner, before the step's first update;      StepReport.logprobs_before
                      the denominator of the clipped ratio
    current           the learner, in each forward pass of the step     inside the loss only

Old and behavior differ by numerics on-policy, and by the updates in between otherwise (importance correction).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Messages = list[dict[str, str]]
"""Chat messages: ``[{"role": "user", "content": "..."}]``."""

RequestKind = Literal["train", "eval"]
"""What a completion is for; both kinds share the generators and scorers."""

DropReason = Literal["stale", "zero_variance", "unscored", "masked", "skipped"]
"""Why a completion is left out of training: older than the staleness bound, of a group whose rewards are all equal,
without a reward, without a token that counts in the loss, or of a step whose loss or gradient was not finite."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One row of the prompt store.

    Attributes:
        row: dense row number in the store, from 0.
        key: identity in the baseline store: the ``prompt_id`` column, else ``core.keys.prompt_key(prompt)``.
        prompt: plain text, or chat messages.
        answer: the reference answer handed to the reward functions; "" if the dataset has none.
        source: what metrics count the row under: its ``data_source``, else the name of its dataset.
        dataset: name of the dataset's entry, which its rewards go by; "" where that is ``source``.
        metadata: the row's other columns.
    """

    row: int
    key: str
    prompt: str | Messages
    answer: str = ""
    source: str = ""
    dataset: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPrompt:
    """A prompt at its place in the prompt stream, tokenized.

    Attributes:
        group_id: position in the stream, counted from 0 over the whole run; unique, and shared by the draw's
            completions.
        prompt: the row drawn.
        token_ids: int32 [P], the prompt after template and tokenizer.
        num_samples: completions to generate for this draw (K, or the curriculum's allocation).
        weight: how often it is drawn, over how often uniform draws would draw it.
    """

    group_id: int
    prompt: Prompt
    token_ids: NDArray[np.int32]
    num_samples: int = 1
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One completion asked of a generator: what an engine needs and nothing else.

    Attributes:
        request_id: unique among the requests in flight. Training counts up from 0 over the run, and a step's
            completions stand in this order; evaluation counts down from -1, so that the two never meet.
        kind: what the completion is for.
        token_ids: int32 [P], the prompt.
        seed: seed of this completion's sampling.
    """

    request_id: int
    kind: RequestKind
    token_ids: NDArray[np.int32]
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a generator answered.

    Attributes:
        request_id: of the request it answers.
        token_ids: int32 [T], with the end-of-sequence token when the model ended by itself.
        logprobs: float32 [T], log π_generator of each token under the distribution it was sampled from.
        text: the tokens decoded, special tokens left out.
        truncated: True if the length limit ended it.
        oldest_version, newest_version: policy versions of its first and last token.
    """

    request_id: int
    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    text: str
    truncated: bool
    oldest_version: int
    newest_version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnscoredReason:
    """Why a completion has no reward.

    Attributes:
        reward: name of the reward without a verdict; "scorer" or "rewards" where no single one is to blame.
        kind: a word for counting: "timeout", "crash", "exception", …, or a reward's own.
        detail: one line for a person.
    """

    reward: str
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        """``own: exception: ValueError: x``"""
        return ": ".join(part for part in (self.reward, self.kind, self.detail) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredCompletion(Completion):
    """A completion with its reward.

    Attributes:
        reward: weighted sum of ``parts``, raw (before ``reward_range`` scaling), always finite; the advantage's.
        tracker_reward: the same without shaping parts such as an overlong penalty; the baseline's.
        parts: each reward function's own value by name.
        metrics: further numbers that reward functions gave, by name.
        extras: what else they said of it, as JSON values: reward → name → value.
    """

    reward: float
    tracker_reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnscoredCompletion(Completion):
    """A completion no reward could be given to: no outcome for the baseline, never a zero."""

    reason: UnscoredReason


Outcome = ScoredCompletion | UnscoredCompletion
"""A completion that went through the rewards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredRollout(ScoredCompletion):
    """A scored completion with what was read when it was dispatched: all that a step needs of it.

    Attributes:
        prompt: the row it answers.
        prompt_token_ids: int32 [P].
        group_id: equal for the completions of one draw.
        sample_index: 0 … num_samples-1 within the group.
        v_hat: baseline read at dispatch, in [0, 1].
        n_eff: effective sample count behind ``v_hat``.
        last_version: policy version of the prompt's newest outcome then; -1 if it was never trained on.
        policy_version: the learner's version at dispatch.
        draw_weight: how often its prompt is drawn, over how often uniform draws would draw it.
        visits: how many groups of the prompt had been scored then.
    """

    prompt: Prompt
    prompt_token_ids: NDArray[np.int32]
    group_id: int
    sample_index: int
    v_hat: float
    n_eff: float
    last_version: int
    policy_version: int
    draw_weight: float = 1.0
    visits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnscoredRollout(UnscoredCompletion):
    """An unscored completion with the row it answers and what was read at dispatch; fields as of `ScoredRollout`."""

    prompt: Prompt
    group_id: int
    sample_index: int
    v_hat: float
    last_version: int
    policy_version: int
    draw_weight: float = 1.0
    visits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedRollout:
    """A completion that will not be trained on, and why."""

    request_id: int
    reason: DropReason


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineReading:
    """What is read of the baseline when prompts are dispatched; n prompts.

    Attributes:
        v_hat: float64 [n] in [0, 1].
        n_eff: float64 [n], effective sample count behind it.
        last_version: int64 [n], policy version of the newest outcome; -1 for a prompt never trained on.
        visits: int64 [n], how many groups of the prompt were scored.
    """

    v_hat: NDArray[np.float64]
    n_eff: NDArray[np.float64]
    last_version: NDArray[np.int64]
    visits: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What the baseline learns from a step, one entry per (prompt, policy version).

    Attributes:
        keys: prompt keys [n].
        reward_sums: float64 [n], Σ r̃ over the entry's completions, r̃ scaled to [0, 1].
        counts: int64 [n], completions.
        versions: int64 [n], policy version that produced them.
    """

    keys: tuple[str, ...]
    reward_sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    versions: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageInputs:
    """What the advantages of a batch are made of, to make them again where the learner changes the rewards.

    Attributes:
        rewards: float64 [B], scaled r̃ with shaping.
        v_hat, n_eff: float64 [B], the baseline at dispatch.
        group_ids: int64 [B], equal for completions of one draw.
        factors: float64 [B], what each sequence's loss is multiplied by; None: 1.
    """

    rewards: NDArray[np.float64]
    v_hat: NDArray[np.float64]
    n_eff: NDArray[np.float64]
    group_ids: NDArray[np.int64]
    factors: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingBatch:
    """One optimizer-step batch over all ranks, ragged and columnar; B sequences.

    Attributes:
        step: optimizer step this batch is for, from 0.
        token_ids: int32 [Σ lengths], each sequence's prompt followed by its completion.
        prompt_lengths: int32 [B].
        completion_lengths: int32 [B].
        behavior_logprobs: float32 [Σ completion_lengths], the generator's own.
        advantages: float32 [B], final: normalized and clipped over the global batch.
        active: bool [B]; False leaves a sequence out of the loss and of every denominator.
        rewards: float32 [B], raw; for controllers and metrics only.
        advantage_inputs: for a KL penalty in the reward, which only the learner can take; None without one.
    """

    step: int
    token_ids: NDArray[np.int32]
    prompt_lengths: NDArray[np.int32]
    completion_lengths: NDArray[np.int32]
    behavior_logprobs: NDArray[np.float32]
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
    """The learner's result of one optimizer step, the same on every rank.

    Attributes:
        step: the step trained.
        policy_version: the learner's version after it; one more than before unless the step was skipped.
        skipped: True if a non-finite loss or gradient left the weights untouched.
        metrics: ``loss/*``, ``policy/*``, ``adaptive_kl/*`` and ``optim/*`` numbers.
        logprobs_before: float32 [Σ completion_lengths], log π of the batch's tokens before its first update, by the
            training pass itself; NaN for tokens that no pass went over before that update.
    """

    step: int
    policy_version: int
    skipped: bool
    metrics: Mapping[str, float]
    logprobs_before: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptColumns:
    """What is known about every prompt of a data set, one array entry per prompt, all of length n.

    Attributes:
        v_hat: float32 ``[n]``, the tracked success rate in [0, 1].
        n_eff: float32 ``[n]``, how many observations the estimate is worth, with what is assumed before the first one.
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


def fields_of(record: Completion) -> dict[str, Any]:
    """The fields of a completion by name, not copied: to make the record of the next stage from it."""
    return {each.name: getattr(record, each.name) for each in fields(record)}
