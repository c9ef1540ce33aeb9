"""The order publish → update → compare → release, which tokens are compared, and what a disagreement does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bolt_ray.actors.generator_handle import Doubt
from bolt_ray.core.errors import WeightSyncError
from bolt_ray.core.records import StepReport, TrainingBatch
from bolt_ray.engines.weight_buckets import pack_buckets
from bolt_ray.training.learner_worker import PublishedWeights
from bolt_ray.training.weight_sync import (
    ADAPTER_PROBE_TOKENS,
    NUM_PROBES,
    ParityProbe,
    SyncReport,
    WeightSync,
    choose_probes,
)


def model_logprobs(tokens: Sequence[int]) -> NDArray[np.float32]:
    """The new model's log-prob of each token from the second on: it depends on the token and its place."""
    values = [-(token + place / 8) / 16 for place, token in enumerate(tokens)]
    return np.array(values[1:], dtype=np.float32)


class FakeSides:
    """Learner and generators at once; both compute log-probs of the tokens they are given.

    Args:
        errors: of each generator, added to its last log-prob of the last sequence.
        adapter: the directory that is published in place of weights.
    """

    def __init__(self, *, errors: Sequence[float] = (0.0,), adapter: str | None = None) -> None:
        self.calls: list[str] = []
        self.asked: list[list[int]] = []
        self._errors = errors
        self._adapter = adapter

    def publish(self, *, version: int, probes: Sequence[Any], timeout_s: float) -> PublishedWeights:
        self.calls.append(f"publish {version}")
        manifest, buckets = pack_buckets([], bucket_bytes=1, version=version)
        return PublishedWeights(
            manifest=None if self._adapter else manifest,
            buckets=buckets,
            adapter=self._adapter,
            probe_logprobs=[model_logprobs(tokens.tolist()) for tokens in probes],
            sampled_logprobs=[2 * model_logprobs(tokens.tolist()) for tokens in probes],
        )

    def update_weights(
        self, manifest: Any, buckets: Any, version: int, *, probes: Any, doubt: Doubt, timeout_s: float
    ) -> Any:
        self.doubt = doubt
        self.calls.append(f"update {version}")
        return self._scores(probes)

    def update_adapter(self, path: str, version: int, *, probes: Any, doubt: Doubt, timeout_s: float) -> Any:
        self.doubt = doubt
        self.calls.append(f"adapter {path} {version}")
        return self._scores(probes)

    def release(self, version: int) -> None:
        self.calls.append(f"release {version}")

    def _scores(self, probes: Sequence[Sequence[int]]) -> list[list[NDArray[np.float32]]]:
        self.asked = [list(tokens) for tokens in probes]
        answers = [[model_logprobs(tokens) for tokens in probes] for _ in self._errors]
        for answer, error in zip(answers, self._errors, strict=True):
            if answer:
                answer[-1][-1] += error
        return answers


def make_sync(sides: FakeSides) -> WeightSync:
    return WeightSync(publisher=sides, subscribers=sides, release=sides.release, max_gap=0.01, timeout_s=1.0)


def probe(*tokens: int, before: Sequence[float] | None = None) -> ParityProbe:
    known = None if before is None else np.array(before, dtype=np.float32)
    return ParityProbe(token_ids=np.array(tokens, dtype=np.int32), before=known)


PROBES = [probe(1, 2, 3), probe(9, 8, 7, 6)]


def test_the_version_is_released_after_all_agree() -> None:
    sides = FakeSides(errors=[0.001, -0.002])
    assert make_sync(sides).run(5, PROBES).gap == pytest.approx(0.002, abs=1e-6)
    assert sides.calls == ["publish 5", "update 5", "release 5"]
    assert sides.asked == [[1, 2, 3], [9, 8, 7, 6]]


def test_an_adapter_is_sent_alone_and_compared_on_the_first_tokens() -> None:
    sides = FakeSides(adapter="/run/adapters/version-5")
    long = probe(*range(3, 3 + 2 * ADAPTER_PROBE_TOKENS))
    assert make_sync(sides).run(5, [long, probe(1, 2)]) == SyncReport(gap=0.0, drift=0.0)
    assert sides.calls == ["publish 5", "adapter /run/adapters/version-5 5", "release 5"]
    assert sides.asked == [list(range(3, 3 + ADAPTER_PROBE_TOKENS)), [1, 2]]


@pytest.mark.parametrize("error", [0.02, -0.02, float("nan")])
def test_one_generator_that_disagrees_stops_the_release(error: float) -> None:
    sides = FakeSides(errors=[0.0, error])
    with pytest.raises(WeightSyncError, match=r"version 5 generator and learner disagree: max \|Δ log p\|"):
        make_sync(sides).run(5, PROBES)
    assert "release 5" not in sides.calls


def test_a_sync_that_no_generator_acknowledged_is_an_error() -> None:
    sides = FakeSides(errors=[])
    with pytest.raises(WeightSyncError, match="no generator acknowledged version 5"):
        make_sync(sides).run(5, PROBES)
    assert sides.calls == ["publish 5", "update 5"]


def test_without_probes_acknowledgement_is_all_there_is() -> None:
    sides = FakeSides()
    assert make_sync(sides).run(5, []) == SyncReport(gap=0.0, drift=0.0)
    assert sides.calls == ["publish 5", "update 5", "release 5"]


def test_a_late_joiner_is_held_to_the_same_limit() -> None:
    sides = FakeSides()
    make_sync(sides).run(5, PROBES)
    expected = [model_logprobs(asked) for asked in sides.asked]
    assert sides.doubt(expected) is None
    off = [*expected[:-1], expected[-1] + np.float32(0.02)]
    assert re.search(r"sync to version 5 generator and learner disagree: max .* is 0\.02 and", sides.doubt(off) or "")


def moved(tokens: Sequence[int], *by: float) -> ParityProbe:
    """A probe whose last tokens had log-probs, as sampled, that the update has moved ``by`` so much."""
    after = 2 * model_logprobs(tokens)[-len(by) :]
    return probe(*tokens, before=(after + np.array(by)).tolist())


def test_drift_is_how_far_the_update_moved_the_completions_log_probs() -> None:
    sync = make_sync(FakeSides())
    assert sync.run(5, [moved([1, 2, 3], -0.25)]).drift == pytest.approx(0.25)
    assert sync.run(6, [moved([1, 2, 3], 0.5, -0.25)]).drift == pytest.approx(0.375)


def test_drift_is_the_mean_over_sequences_of_their_means() -> None:
    probes = [moved([1, 2, 3], 0.5, -0.25), moved([9, 8, 7, 6], 1.0), moved([5, 4], 0.25), probe(3, 3)]
    # A probe of which nothing was known before the update does not count.
    assert make_sync(FakeSides()).run(5, probes).drift == pytest.approx((0.375 + 1.0 + 0.25) / 3)


def test_rounding_is_no_drift() -> None:
    """In bfloat16 two passes over the same tokens differ by more than a small step moves the policy."""
    sync = make_sync(FakeSides())
    probes = [moved([1, 2, 3], 0.5, -0.5), moved([5, 4], 0.5)]
    assert sync.run(5, probes, rounding=0.5).drift == 0.0
    assert sync.run(6, probes, rounding=0.75).drift == 0.0
    # Of a move of 5 whose rounding is 3, 4 is the policy's.
    assert sync.run(7, probes, rounding=0.3).drift == pytest.approx(0.4)


def make_trained(completion_lengths: list[int], before: list[float]) -> tuple[TrainingBatch, StepReport]:
    """A batch of prompts of one token each, its tokens counted through, and the log-probs of its training pass."""
    count, tokens = len(completion_lengths), sum(completion_lengths)
    batch = TrainingBatch(
        step=0,
        token_ids=np.arange(count + tokens, dtype=np.int32),
        prompt_lengths=np.ones(count, dtype=np.int32),
        completion_lengths=np.array(completion_lengths, dtype=np.int32),
        behavior_logprobs=np.zeros(tokens, dtype=np.float32),
        advantages=np.zeros(count, dtype=np.float32),
        active=np.ones(count, dtype=np.bool_),
        rewards=np.zeros(count, dtype=np.float32),
    )
    known = np.array(before, dtype=np.float32)
    return batch, StepReport(step=0, policy_version=1, skipped=False, metrics={}, logprobs_before=known)


def test_probes_are_sequences_whose_log_probs_before_the_update_are_known() -> None:
    nan = float("nan")
    batch, report = make_trained([2, 0, 1, 3], [-1.0, -2.0, nan, -4.0, -5.0, -6.0])
    probes = choose_probes(batch, report)
    assert [probe.token_ids.tolist() for probe in probes] == [[0, 1, 2], [6, 7, 8, 9]]
    assert [probe.before.tolist() for probe in probes if probe.before is not None] == [[-1.0, -2.0], [-4.0, -5.0, -6.0]]


def test_probes_come_from_all_over_the_batch() -> None:
    batch, report = make_trained([1] * 100, [-1.0] * 100)
    first_tokens = [int(probe.token_ids[0]) for probe in choose_probes(batch, report)]
    assert first_tokens[0] == 0
    assert first_tokens[-1] == 198
    assert len(set(first_tokens)) == NUM_PROBES


def test_no_probe_without_a_known_log_prob() -> None:
    batch, report = make_trained([1, 1], [float("nan")] * 2)
    assert choose_probes(batch, report) == []
