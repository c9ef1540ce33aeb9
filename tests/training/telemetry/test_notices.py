"""What a run says in words, once each."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bolt_ray.core.advantages import AdvantageOptions, AdvantageOutput
from bolt_ray.training.batch import BatchBuilder
from bolt_ray.training.telemetry.notices import LATE_STEPS, Notices

NO_ADVANTAGES = AdvantageOutput(
    advantages=np.zeros(0, dtype=np.float32), metrics={}, singletons=0, zero_variance_groups=0
)


def notices(said: list[str], *, kl_per_sequence: bool = False, forgets_after: float = math.inf) -> Notices:
    builder = BatchBuilder(
        advantage=AdvantageOptions(),
        reward_range=(0.0, 1.0),
        mask_truncated=False,
        skip_truncated_evidence=False,
        importance=0.0,
    )
    return Notices(say=said.append, builder=builder, kl_per_sequence=kl_per_sequence, forgets_after=forgets_after)


def test_rewards_that_are_cut_are_told_once() -> None:
    said: list[str] = []
    speaker = notices(said)
    for share in (0.0, 0.25, 0.5):
        speaker.of_batch(NO_ADVANTAGES, {"reward/clipped_fraction": share})
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


def test_evidence_that_fades_between_two_visits_is_told_in_words() -> None:
    """``event`` with rho_min .875 loses what is older than 8 versions, and visits are 30 apart."""
    seldom, never = {"baseline/versions_between_visits": 30.0}, dict[str, float]()
    said: list[str] = []
    speaker = notices(said, forgets_after=8.0)
    for record in [never] * 30 + [seldom] * (LATE_STEPS - 1) + [never] + [seldom] * (LATE_STEPS - 1):
        speaker.of_batch(NO_ADVANTAGES, record)
    assert said == []
    for _ in range(LATE_STEPS):
        speaker.of_batch(NO_ADVANTAGES, seldom)
    assert len(said) == 1
    assert "about every 30 versions" in said[0] and "older than 8" in said[0] and "baseline.forgetting=kl" in said[0]
    speaker = notices(said, forgets_after=30.0)
    for _ in range(LATE_STEPS):
        speaker.of_batch(NO_ADVANTAGES, seldom)
    assert len(said) == 1
