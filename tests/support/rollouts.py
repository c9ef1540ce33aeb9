"""Completions of which a test names only what it is about."""

from __future__ import annotations

from typing import Any

import numpy as np

from bolt_ray.core.records import Prompt, ScoredRollout, UnscoredReason, UnscoredRollout


def scored_rollout(*, tokens: int = 2, reward: float = 0.0, **changes: Any) -> ScoredRollout:
    """A completion of ``tokens`` tokens; ``changes``: fields of the record."""
    fields = _fields(tokens) | {"prompt_token_ids": np.array([1], dtype=np.int32), "n_eff": 1.0}
    return ScoredRollout(**fields | {"reward": reward, "tracker_reward": reward} | changes)


def unscored_rollout(*, tokens: int = 2, **changes: Any) -> UnscoredRollout:
    """The same without a verdict."""
    return UnscoredRollout(**_fields(tokens) | {"reason": UnscoredReason(reward="own", kind="timeout")} | changes)


def _fields(tokens: int) -> dict[str, Any]:
    return {
        "request_id": 0,
        "token_ids": np.arange(tokens, dtype=np.int32),
        "logprobs": np.zeros(tokens, dtype=np.float32),
        "text": "",
        "truncated": False,
        "oldest_version": 0,
        "newest_version": 0,
        "prompt": Prompt(row=0, key="k", prompt="p"),
        "group_id": 0,
        "sample_index": 0,
        "v_hat": 0.5,
        "last_version": -1,
        "policy_version": 0,
    }
