"""One scorer: a :class:`RewardSet` in a Ray actor, and the records that go to it and come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from bolt_ray.actors.processes import ProcessInfo, ProcessMonitor, hide_gpus
from bolt_ray.core.records import UnscoredReason
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.reward_set import RewardResult, RewardSet
from bolt_ray.rewards.settings import RewardSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRequest:
    """One completion to be scored, under the id of the request that it answers."""

    request_id: int
    input: RewardInput


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringResult:
    """The rewards of one completion, or why there are none."""

    request_id: int
    result: RewardResult | UnscoredReason


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredBatch:
    """What a scorer answers: per completion its rewards, or the reason there is none; and the scorer's process."""

    results: list[RewardResult | UnscoredReason]
    process: ProcessInfo


class Scorer:
    """The actor: a :class:`RewardSet` behind two calls.

    Args:
        name: its own, for whoever watches.
        specs: the run's rewards.
        by_source, eval_by_source: names of the rewards that apply to a dataset, in training and in evaluation; all,
            for a dataset not in it.
        startup_timeout_s: limit on the start of a reward process.
        gpus: whether Ray gave it some; without, its rewards see none.
    """

    def __init__(
        self,
        *,
        name: str,
        specs: Sequence[RewardSettings],
        by_source: Mapping[str, Sequence[str]],
        eval_by_source: Mapping[str, Sequence[str]],
        startup_timeout_s: float,
        gpus: bool,
    ) -> None:
        if not gpus:
            hide_gpus()
        self._name = name
        self._monitor = ProcessMonitor("scorer", name, children=True)
        self._rewards = RewardSet(
            specs=specs, by_source=by_source, eval_by_source=eval_by_source, startup_timeout_s=startup_timeout_s
        )

    def __repr__(self) -> str:
        """What Ray shows."""
        return self._name

    def info(self) -> ProcessInfo:
        """Its process; the first answer says that it has found a node."""
        return self._monitor.info()

    def start(self) -> None:
        """Start the reward processes.

        Raises:
            ConfigError: a reward cannot be built.
        """
        self._rewards.start()

    def score(self, inputs: Sequence[RewardInput]) -> ScoredBatch:
        """Score completions."""
        return ScoredBatch(results=self._rewards.score(inputs), process=self._monitor.info())

    def close(self) -> None:
        """End the reward processes."""
        self._rewards.close()


RemoteScorer = ray.remote(Scorer)
