"""The records that travel between processes: what a later stage adds, and that they survive the way."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from bolt_ray.core.records import Completion, Prompt, ScoredCompletion, ScoredRollout, UnscoredReason, fields_of

COMPLETION = Completion(
    request_id=7,
    token_ids=np.array([3, 4], dtype=np.int32),
    logprobs=np.array([-0.5, -0.25], dtype=np.float32),
    text="4",
    truncated=False,
    oldest_version=1,
    newest_version=2,
)


def test_a_later_stage_has_every_field_of_the_earlier_one() -> None:
    scored = ScoredCompletion(**fields_of(COMPLETION), reward=1.5, tracker_reward=1.0, parts={"own": 1.0})
    rollout = ScoredRollout(
        **fields_of(scored),
        prompt=Prompt(row=3, key="k", prompt="2+2"),
        prompt_token_ids=np.array([1], dtype=np.int32),
        group_id=5,
        sample_index=1,
        v_hat=0.25,
        n_eff=8.0,
        last_version=-1,
        policy_version=1,
    )
    assert rollout.token_ids is COMPLETION.token_ids, "arrays are not copied"
    again = pickle.loads(pickle.dumps(rollout))  # noqa: S301 - our own bytes
    for name, value in fields_of(rollout).items():
        np.testing.assert_array_equal(getattr(again, name), value)
    assert (again.request_id, again.text, again.oldest_version, again.newest_version) == (7, "4", 1, 2)
    assert (again.reward, again.tracker_reward, again.parts, again.prompt.key) == (1.5, 1.0, {"own": 1.0}, "k")
    with pytest.raises(FrozenInstanceError):
        again.reward = 0.0


def test_a_reason_in_words() -> None:
    assert (
        str(UnscoredReason(reward="own", kind="exception", detail="ValueError: x")) == "own: exception: ValueError: x"
    )
    assert str(UnscoredReason(reward="math", kind="timeout")) == "math: timeout"
