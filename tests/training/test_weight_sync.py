"""The order publish → update → probe → release, and what a disagreement does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bolt_ray.core.errors import WeightSyncError
from bolt_ray.core.records import StepReport, TrainingBatch
from bolt_ray.engines.weight_buckets import pack_buckets
from bolt_ray.training.learner_worker import PublishedWeights
from bolt_ray.training.weight_sync import NUM_PROBES, Probe, SyncReport, WeightSync, choose_probes


class FakeSides:
    """Learner and generators at once; writes down what was called."""

    def __init__(self, *, generator_logprobs: list[list[float]], adapter: str | None = None) -> None:
        self.calls: list[str] = []
        self._answers = [[np.array(values, dtype=np.float32)] for values in generator_logprobs]
        self._adapter = adapter

    def publish(self, *, version: int, probes: Sequence[Any], timeout_s: float) -> PublishedWeights:
        self.calls.append(f"publish {version}")
        manifest, buckets = pack_buckets([], bucket_bytes=1, version=version)
        return PublishedWeights(
            manifest=None if self._adapter else manifest,
            buckets=buckets,
            adapter=self._adapter,
            probe_logprobs=[np.array([-1.0, -2.0], dtype=np.float32)],
            sampled_logprobs=[np.array([-1.5, -3.0], dtype=np.float32)],
        )

    def update_weights(self, manifest: Any, buckets: Any, version: int, *, probe: Any, timeout_s: float) -> Any:
        self.calls.append(f"update {version}")
        return self._answers

    def update_adapter(self, path: str, version: int, *, probe: Any, timeout_s: float) -> Any:
        self.calls.append(f"adapter {path} {version}")
        return self._answers

    def release(self, version: int) -> None:
        self.calls.append(f"release {version}")


def make_sync(sides: FakeSides) -> WeightSync:
    return WeightSync(publisher=sides, subscribers=sides, release=sides.release, max_gap=0.01, timeout_s=1.0)


PROBE = [Probe(token_ids=np.array([1, 2, 3], dtype=np.int32))]


def test_the_version_is_released_after_all_agree() -> None:
    sides = FakeSides(generator_logprobs=[[-1.0, -2.001], [-1.002, -2.0]])
    assert make_sync(sides).run(5, PROBE).gap == pytest.approx(0.002, abs=1e-6)
    assert sides.calls == ["publish 5", "update 5", "release 5"]


def test_an_adapter_is_handed_over_alone() -> None:
    sides = FakeSides(generator_logprobs=[[-1.0, -2.0]], adapter="/run/adapters/version-5")
    assert make_sync(sides).run(5, PROBE) == SyncReport(gap=0.0, drift=0.0)
    assert sides.calls == ["publish 5", "adapter /run/adapters/version-5 5", "release 5"]


@pytest.mark.parametrize("bad", [-2.02, float("nan")])
def test_one_generator_that_disagrees_stops_the_release(bad: float) -> None:
    sides = FakeSides(generator_logprobs=[[-1.0, -2.0], [-1.0, bad]])
    with pytest.raises(WeightSyncError, match=r"version 5 generator and learner disagree: max \|Δ log p\|"):
        make_sync(sides).run(5, PROBE)
    assert "release 5" not in sides.calls


def test_drift_is_how_far_the_update_moved_the_completions_log_probs() -> None:
    sides = FakeSides(generator_logprobs=[[-1.0, -2.0]])
    known = Probe(token_ids=np.array([1, 2, 3], dtype=np.int32), before=np.array([-2.75], dtype=np.float32))
    assert make_sync(sides).run(5, [known]).drift == pytest.approx(0.25)
    whole = Probe(token_ids=np.array([1, 2, 3], dtype=np.int32), before=np.array([-1.0, -2.75], dtype=np.float32))
    assert make_sync(sides).run(6, [whole]).drift == pytest.approx((0.5 + 0.25) / 2)


def make_trained(completion_lengths: list[int], before: list[float]) -> tuple[TrainingBatch, StepReport]:
    """A batch of prompts of one token each, its tokens counted through, and what its training pass saw."""
    count, tokens = len(completion_lengths), sum(completion_lengths)
    batch = TrainingBatch(
        step=0,
        token_ids=np.arange(count + tokens, dtype=np.int32),
        prompt_lengths=np.ones(count, dtype=np.int32),
        completion_lengths=np.array(completion_lengths, dtype=np.int32),
        behaviour_logprobs=np.zeros(tokens, dtype=np.float32),
        advantages=np.zeros(count, dtype=np.float32),
        active=np.ones(count, dtype=np.bool_),
        rewards=np.zeros(count, dtype=np.float32),
    )
    report = StepReport(step=0, skipped=False, metrics={}, logprobs_before=np.array(before, dtype=np.float32))
    return batch, report


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
