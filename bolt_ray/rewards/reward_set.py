"""Scores a batch with all rewards of a run, each in its process, and combines the parts by weight."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from bolt_ray.core.records import UnscoredReason
from bolt_ray.core.secrets import masked_text
from bolt_ray.rewards.process.isolation import RewardProcess
from bolt_ray.rewards.protocol import NOT_APPLICABLE, Noted, RewardInput, Unscored, Verdict
from bolt_ray.rewards.settings import RewardSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardResult:
    """The rewards of one completion.

    Attributes:
        reward: Σ weight · part over all rewards that apply, shaping included; for the advantage.
        tracker_reward: the same without the shaping rewards; for the baseline tracker.
        parts: each reward's own value, before its weight, by name.
        metrics: further numbers of the rewards, by name; the mean where several give one of that name.
        extras: what else each reward says of the completion, as JSON values: reward → name → value.
    """

    reward: float
    tracker_reward: float
    parts: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def combine(specs: Sequence[RewardSettings], parts: Mapping[str, float]) -> RewardResult:
    """The weighted sums of ``parts``; specs without a part are left out."""
    present = [spec for spec in specs if spec.part_name in parts]
    return RewardResult(
        reward=sum(spec.weight * parts[spec.part_name] for spec in present),
        tracker_reward=sum(spec.weight * parts[spec.part_name] for spec in present if not spec.shaping),
        parts=dict(parts),
    )


def reason_of(name: str, verdict: Unscored) -> UnscoredReason:
    """The reason of the reward ``name``, its detail on one line and without secrets: it is logged and kept."""
    detail = masked_text(" ".join(verdict.detail.split()), environ=os.environ)
    return UnscoredReason(reward=name, kind=verdict.kind, detail=detail)


@dataclass(slots=True)
class _Parts:
    """What the rewards said of one completion so far; ``declined`` is the first that is not meant for it."""

    parts: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    declined: UnscoredReason | None = None

    def add(self, name: str, verdict: Verdict) -> None:
        if isinstance(verdict, Unscored):
            self.declined = self.declined or reason_of(name, verdict)
            return
        if isinstance(verdict, Noted):
            for metric, value in verdict.metrics.items():
                self.metrics.setdefault(metric, []).append(value)
            if verdict.extras:
                self.extras[name] = verdict.extras
        self.parts[name] = verdict.value if isinstance(verdict, Noted) else verdict


class RewardSet:
    """The rewards of a run, ready to score.

    Args:
        specs: all rewards, with distinct names.
        by_source: names of the rewards that apply to a dataset; a dataset not in it gets all of them. An entry
            ``<dataset>: <source>`` is for the rows of one data_source in it.
        eval_by_source: the same for held-out problems, whose datasets may have the names of those trained on.
        startup_timeout_s: limit on the start of each reward process.
    """

    def __init__(
        self,
        *,
        specs: Sequence[RewardSettings],
        by_source: Mapping[str, Sequence[str]] | None = None,
        eval_by_source: Mapping[str, Sequence[str]] | None = None,
        startup_timeout_s: float,
    ) -> None:
        self._specs = tuple(specs)
        self._by_source, self._eval_by_source = by_source or {}, eval_by_source or {}
        shared = [spec for spec in self._specs if spec.shares_process]
        groups = [shared] if shared else []
        groups += [[spec] for spec in self._specs if not spec.shares_process]
        self._place: dict[str, tuple[RewardProcess, int]] = {}
        self._processes: list[RewardProcess] = []
        for group in groups:
            process = RewardProcess(rewards=group, startup_timeout_s=startup_timeout_s)
            self._processes.append(process)
            self._place |= {spec.part_name: (process, index) for index, spec in enumerate(group)}

    def start(self) -> None:
        """Start every reward process.

        Raises:
            ConfigError: a reward cannot be built; no process is left.
        """
        started = False
        try:
            for process in self._processes:
                process.launch()
            for process in self._processes:
                process.start()
            started = True
        finally:
            if not started:
                self.close()

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardResult | UnscoredReason]:
        """Score completions.

        Returns:
            per completion its rewards, or the reason there is none. A completion one reward has no verdict
            on is not handed to the next: a sum with a part missing would be a different reward. One that a reward
            is not meant for goes without that part.
        """
        scored = [_Parts() for _ in inputs]
        reasons: dict[int, UnscoredReason] = {}
        for spec in self._specs:
            todo = [i for i, item in enumerate(inputs) if i not in reasons and self._applies(spec, item)]
            process, index = self._place[spec.part_name]
            for i, verdict in zip(todo, process.score(index, [inputs[i] for i in todo]), strict=True):
                if isinstance(verdict, Unscored) and verdict.kind != NOT_APPLICABLE:
                    reasons[i] = reason_of(spec.part_name, verdict)
                else:
                    scored[i].add(spec.part_name, verdict)
        return [reasons.get(i) or self._sum(scored[i]) for i in range(len(inputs))]

    @property
    def pids(self) -> list[int]:
        """Process ids of the reward processes that run at the moment."""
        return [process.pid for process in self._processes if process.pid is not None]

    def close(self) -> None:
        """End every reward process."""
        for process in self._processes:
            process.close()

    def _applies(self, spec: RewardSettings, item: RewardInput) -> bool:
        applied = self._eval_by_source if item.evaluation else self._by_source
        names = applied.get(f"{item.dataset}: {item.source}", applied.get(item.dataset or item.source))
        return names is None or spec.part_name in names

    def _sum(self, scored: _Parts) -> RewardResult | UnscoredReason:
        if not scored.parts:
            return scored.declined or UnscoredReason(
                reward="rewards", kind="no_reward", detail="no reward applies to this dataset"
            )
        metrics = {name: fmean(values) for name, values in scored.metrics.items()}
        return replace(combine(self._specs, scored.parts), metrics=metrics, extras=scored.extras)
