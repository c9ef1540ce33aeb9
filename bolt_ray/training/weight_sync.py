"""Brings the generators to the learner's weights and checks that they agree before the version is used.

    publish (learner, collective) ─▶ update (all generators acknowledge) ─▶ compare ─▶ release the version

The version is released only when every generator has acknowledged it and agrees with the learner on the log-probs
of a few sequences, the parity probes: a stale output head, a wrong name or half an update show there and nowhere
else.

The probes are sequences of the batch just trained, whose log-probs before the update are known from the training
pass. The same comparison therefore measures how far the update moved the policy, the drift that ``forgetting: kl`` of
the baseline follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bolt_ray.actors.generator_handle import Doubt, Scores
from bolt_ray.core.errors import WeightSyncError
from bolt_ray.core.records import StepReport, TrainingBatch
from bolt_ray.engines.weight_buckets import WeightManifest
from bolt_ray.training.learner_worker import PublishedWeights
from bolt_ray.training.telemetry.timer import Span, StepTimer

NUM_PROBES = 4
"""Sequences compared at each sync: enough to find a wrong tensor, cheap enough for every step."""
ADAPTER_PROBE_TOKENS = 16
"""Longest probe of generators with adapters, which score token by token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityProbe:
    """A sequence to compare.

    Attributes:
        token_ids: int32 [n], n >= 2.
        before: float32 [T], log π of its last T tokens, as sampled, before the update; None if there was none.
    """

    token_ids: NDArray[np.int32]
    before: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """The result of the parity probes.

    Attributes:
        gap: max |Δ log p| between generator and learner, both with the new weights.
        drift: mean over sequences of their tokens' mean |log π_new − log π_before|, the policy's move in this
            version, less what is rounding; 0 if nothing was known before.
    """

    gap: float
    drift: float


class Publisher(Protocol):
    """The learner's side."""

    def publish(self, *, version: int, probes: Sequence[NDArray[np.int32]], timeout_s: float) -> PublishedWeights: ...


class Subscribers(Protocol):
    """The generators' side; returns when all have acknowledged, with each one's log-probs of the probes.

    One that joins later scores them too; ``doubt`` says what is wrong with its scores.
    """

    def update_weights(
        self,
        manifest: WeightManifest,
        buckets: Sequence[Any],
        version: int,
        *,
        probes: Sequence[Sequence[int]],
        doubt: Doubt,
        timeout_s: float,
    ) -> list[Scores]: ...
    def update_adapter(
        self, path: str, version: int, *, probes: Sequence[Sequence[int]], doubt: Doubt, timeout_s: float
    ) -> list[Scores]: ...


class WeightSync:
    """Runs the syncs of a training, one at a time; ``ended`` is called with the span of each part of one."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        subscribers: Subscribers,
        release: Callable[[int], None],
        max_gap: float,
        timeout_s: float,
        ended: Callable[[Span], None] = lambda span: None,
    ) -> None:
        self._publisher = publisher
        self._subscribers = subscribers
        self._release = release
        self._max_gap = max_gap
        self._timeout_s = timeout_s
        self._ended = ended

    def run(self, version: int, probes: Sequence[ParityProbe], *, rounding: float = 0.0) -> SyncReport:
        """Bring all generators to ``version``.

        Args:
            probes: sequences to compare on.
            rounding: ``policy/rounding`` of the batch they are of.

        Raises:
            WeightSyncError: generator and learner disagree by more than the limit, or no generator is left.
        """
        parts = StepTimer(ended=self._ended)
        with parts.phase("publish"):
            published = self._publisher.publish(
                version=version, probes=[probe.token_ids for probe in probes], timeout_s=self._timeout_s
            )
        with parts.phase("update generators"):
            answers = self._update_generators(published, version, [probe.token_ids.tolist() for probe in probes])
        if not answers:
            raise WeightSyncError(f"no generator acknowledged version {version}; all of them were lost during the sync")
        gaps = [_max_gap(published.probe_logprobs, answer) for answer in answers]
        if (doubt := self._doubt(_largest(gaps), version)) is not None:
            raise WeightSyncError(f"{doubt}; run 'bolt-ray doctor'")
        self._release(version)
        return SyncReport(gap=_largest(gaps), drift=_drift(probes, published.sampled_logprobs, rounding=rounding))

    def _update_generators(self, published: PublishedWeights, version: int, probes: list[list[int]]) -> list[Scores]:
        expected = published.probe_logprobs

        def doubt(scores: Scores) -> str | None:
            return self._doubt(_max_gap(expected, scores), version)

        if published.adapter is not None:
            short = [tokens[:ADAPTER_PROBE_TOKENS] for tokens in probes]
            return self._subscribers.update_adapter(
                published.adapter, version, probes=short, doubt=doubt, timeout_s=self._timeout_s
            )
        assert published.manifest is not None
        return self._subscribers.update_weights(
            published.manifest, published.buckets, version, probes=probes, doubt=doubt, timeout_s=self._timeout_s
        )

    def _doubt(self, gap: float, version: int) -> str | None:
        if gap <= self._max_gap:
            return None
        return (
            f"after the sync to version {version} generator and learner disagree: max |Δ log p| is {gap:.2g} and "
            f"the limit is {self._max_gap:.2g} (generator.max_logprob_gap)"
        )


def choose_probes(batch: TrainingBatch, report: StepReport) -> list[ParityProbe]:
    """Sequences from all over a batch just trained whose log-probs before the update are known."""
    sequences = np.split(batch.token_ids, np.cumsum(batch.lengths)[:-1])
    before = np.split(report.logprobs_before, np.cumsum(batch.completion_lengths)[:-1])
    known = [i for i, values in enumerate(before) if len(values) and np.isfinite(values).all()]
    places = np.linspace(0, len(known) - 1, min(NUM_PROBES, len(known))).astype(int)
    return [ParityProbe(token_ids=sequences[known[i]], before=before[known[i]]) for i in places]


def _drift(probes: Sequence[ParityProbe], after: Sequence[NDArray[np.float32]], *, rounding: float) -> float:
    """Squares of independent moves add up, so of the mean move the share √(1 − rounding²/RMS²) is the policy's."""
    moves = [
        np.abs(new[-len(probe.before) :] - probe.before).astype(np.float64)
        for probe, new in zip(probes, after, strict=True)
        if probe.before is not None
    ]
    if not moves:
        return 0.0
    looks = float(np.mean([move.mean() for move in moves]))
    square = float(np.mean(np.concatenate(moves) ** 2))
    return looks * math.sqrt(max(0.0, 1.0 - rounding**2 / square)) if square > 0.0 else 0.0


def _max_gap(expected: Sequence[NDArray[np.float32]], found: Sequence[NDArray[Any]]) -> float:
    """Over the tokens found, which may be the first of those expected only."""
    return _largest([float(np.max(np.abs(a[: len(b)] - b))) for a, b in zip(expected, found, strict=True)])


def _largest(values: list[float]) -> float:
    """0 for none; NaN if one is, which ``max`` would lose."""
    return float(np.max(values)) if values else 0.0
