"""What a run says in words, once each."""

from __future__ import annotations

import numpy as np
import pytest

from bolt_ray.core.advantages import AdvantageOptions, AdvantageOutput
from bolt_ray.training.baseline_quality import BaselineWatch
from bolt_ray.training.batch import BatchBuilder
from bolt_ray.training.rollout import StepRollouts
from bolt_ray.training.telemetry.notices import Notices

NO_ROLLOUTS = StepRollouts(trainable=(), unscored=(), baseline_only=(), dropped=(), refilled=0)
NO_ADVANTAGES = AdvantageOutput(
    advantages=np.zeros(0, dtype=np.float32), metrics={}, singletons=0, zero_variance_groups=0
)


def notices(said: list[str], *, kl_per_sequence: bool = False) -> Notices:
    builder = BatchBuilder(
        advantage=AdvantageOptions(),
        reward_range=(0.0, 1.0),
        mask_truncated=False,
        skip_truncated_evidence=False,
        importance=0.0,
    )
    watch = BaselineWatch(uses_tracker=True)
    return Notices(say=said.append, builder=builder, watch=watch, kl_per_sequence=kl_per_sequence)


def test_rewards_that_are_cut_are_told_once() -> None:
    said: list[str] = []
    speaker = notices(said)
    for share in (0.0, 0.25, 0.5):
        speaker.of_batch(NO_ROLLOUTS, NO_ADVANTAGES, {"reward/clipped_fraction": share}, version=0)
    assert len(said) == 1
    assert "25% of this step's rewards lie outside 0 to 1" in said[0] and "baseline.reward_range" in said[0]


@pytest.mark.parametrize(
    ("per_sequence", "raw_kl", "told"),
    [(False, 1.0, False), (False, 1.5, True), (True, 15.0, False), (True, 45.0, True)],
)
def test_a_policy_far_from_its_reference_is_told_in_words(per_sequence: bool, raw_kl: float, told: bool) -> None:
    """Completions are 30 tokens long, so 45 nats a sequence are 1.5 a token."""
    said: list[str] = []
    speaker = notices(said, kl_per_sequence=per_sequence)
    speaker.of_update({"completions/mean_length": 30.0})
    speaker.of_update({"adaptive_kl/raw_kl": raw_kl, "completions/mean_length": 30.0})
    speaker.of_update({"adaptive_kl/raw_kl": raw_kl, "completions/mean_length": 30.0})
    assert len(said) == told
    assert not told or "1.5 nats per token away from the reference" in said[0]
