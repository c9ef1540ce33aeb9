"""The order publish → update → probe → release, and what a disagreement does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bolt_ray.core.errors import WeightSyncError
from bolt_ray.core.records import TrainingBatch
from bolt_ray.engines.weights import pack_buckets
from bolt_ray.pipeline.train_worker import PublishedWeights
from bolt_ray.pipeline.weight_sync import WeightSync, probe_sequences


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


PROBE = [np.array([1, 2, 3], dtype=np.int32)]


def test_the_version_is_released_after_all_agree() -> None:
    sides = FakeSides(generator_logprobs=[[-1.0, -2.001], [-1.002, -2.0]])
    assert make_sync(sides).run(5, PROBE) == pytest.approx(0.002, abs=1e-6)
    assert sides.calls == ["publish 5", "update 5", "release 5"]


def test_an_adapter_is_handed_over_alone() -> None:
    sides = FakeSides(generator_logprobs=[[-1.0, -2.0]], adapter="/run/adapters/version-5")
    assert make_sync(sides).run(5, PROBE) == 0.0
    assert sides.calls == ["publish 5", "adapter /run/adapters/version-5 5", "release 5"]


@pytest.mark.parametrize("bad", [-2.02, float("nan")])
def test_one_generator_that_disagrees_stops_the_release(bad: float) -> None:
    sides = FakeSides(generator_logprobs=[[-1.0, -2.0], [-1.0, bad]])
    with pytest.raises(WeightSyncError, match=r"version 5 generator and learner disagree: max \|Δ log p\|"):
        make_sync(sides).run(5, PROBE)
    assert "release 5" not in sides.calls


def test_probes_are_the_first_sequences_with_their_prompts() -> None:
    batch = TrainingBatch(
        step=0,
        token_ids=np.arange(9, dtype=np.int32),
        prompt_lengths=np.array([1, 1, 2], dtype=np.int32),
        completion_lengths=np.array([2, 0, 3], dtype=np.int32),
        behaviour_logprobs=np.zeros(5, dtype=np.float32),
        advantages=np.zeros(3, dtype=np.float32),
        active=np.ones(3, dtype=np.bool_),
        rewards=np.zeros(3, dtype=np.float32),
    )
    assert [probe.tolist() for probe in probe_sequences(batch)] == [[0, 1, 2], [4, 5, 6, 7, 8]]
