"""Completions, and finished steps of them, for what keeps and shows samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bolt_ray.core.advantages import AdvantageOutput
from bolt_ray.core.records import (
    DroppedRollout,
    Prompt,
    ScoredRollout,
    StepReport,
    TrainingBatch,
    UnscoredReason,
    UnscoredRollout,
)
from bolt_ray.training.rollout import StepRollouts
from bolt_ray.training.telemetry.observer import TrainedStep


def rollout(
    number: int,
    *,
    reward: float | None = 1.0,
    tokens: int = 2,
    truncated: bool = False,
    sample_index: int = 0,
    text: str = "4",
    **changes: Any,
) -> ScoredRollout | UnscoredRollout:
    """Of request ``number``; its log-probs are all -number / 8; ``reward`` None: unscored."""
    fields: dict[str, Any] = {
        "request_id": number,
        "token_ids": np.arange(tokens, dtype=np.int32),
        "logprobs": np.full(tokens, -number / 8, dtype=np.float32),
        "text": text,
        "truncated": truncated,
        "oldest_version": 6,
        "newest_version": 7,
        "prompt": Prompt(row=number, key=f"key-{number}", prompt="2+2=", answer="4", source="sums"),
        "group_id": 10 + number,
        "sample_index": sample_index,
        "v_hat": 0.25,
        "last_version": 5,
        "policy_version": 6,
        "draw_weight": 1.5,
        "visits": 3,
    } | changes
    if reward is None:
        reason = UnscoredReason(reward="own", kind="timeout", detail="after 1 s")
        return UnscoredRollout(**fields, reason=reason)
    return ScoredRollout(
        **{"reward": reward, "tracker_reward": reward, "parts": {"own": reward}} | fields,
        prompt_token_ids=np.array([1], dtype=np.int32),
        n_eff=2.0,
    )


def trained_step(
    items: Sequence[ScoredRollout | UnscoredRollout],
    *,
    step: int = 1,
    baseline_only: Sequence[ScoredRollout] = (),
    before: Sequence[float] | None = None,
) -> TrainedStep:
    """A step of ``items``: the i-th scored one has the advantage i, and ``before`` is the learner's log-prob of each
    of its tokens (default: 1/8 above the generator's)."""
    scored = tuple(item for item in items if isinstance(item, ScoredRollout))
    unscored = tuple(item for item in items if isinstance(item, UnscoredRollout))
    behavior = np.concatenate([item.logprobs for item in scored] or [np.zeros(0, dtype=np.float32)])
    lengths = np.array([len(item.token_ids) for item in scored], dtype=np.int32)
    learner = behavior + 0.125 if before is None else np.repeat(np.array(before, dtype=np.float32), lengths)
    return TrainedStep(
        step=step,
        rollouts=StepRollouts(
            trainable=scored,
            unscored=unscored,
            baseline_only=tuple(baseline_only),
            dropped=(
                *(DroppedRollout(request_id=item.request_id, reason="stale") for item in baseline_only),
                *(DroppedRollout(request_id=item.request_id, reason="unscored") for item in unscored),
            ),
            refilled=0,
        ),
        batch=TrainingBatch(
            step=step - 1,
            token_ids=np.zeros(int(lengths.sum()) + len(scored), dtype=np.int32),
            prompt_lengths=np.ones(len(scored), dtype=np.int32),
            completion_lengths=lengths,
            behavior_logprobs=behavior,
            advantages=np.arange(len(scored), dtype=np.float32),
            active=np.ones(len(scored), dtype=np.bool_),
            rewards=np.array([item.reward for item in scored], dtype=np.float32),
        ),
        advantages=AdvantageOutput(
            advantages=np.arange(len(scored), dtype=np.float32), metrics={}, singletons=0, zero_variance_groups=0
        ),
        report=StepReport(
            step=step - 1, policy_version=7, skipped=False, metrics={}, logprobs_before=learner.astype(np.float32)
        ),
        record={"step": step, "policy_version": 7, "reward/mean": 0.5, "throughput/tokens_per_second": 1.0},
    )
