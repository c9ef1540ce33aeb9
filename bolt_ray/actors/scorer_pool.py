"""The driver's side of scoring: a pool of scorer actors that never makes the rollout loop wait.

    submit(requests) ──▶ queue ── batches ──▶ scorer actors ──▶ reward processes
    poll() ◀── ScoringResult(request_id, RewardResult | UnscoredReason) ──┘

A scorer that dies, or that does not answer by its batch's deadline, is killed and replaced. Its completions are
tried once more, one by one, so that a second death identifies its completion; after that they are unscored.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.ray_results import cause_of, get_result
from bolt_ray.actors.scorer_actor import RemoteScorer, ScoredBatch, ScoringRequest, ScoringResult
from bolt_ray.actors.settings import ScoringSettings
from bolt_ray.core.errors import BoltRayError, ConfigError, EnvironmentProblem, StallError
from bolt_ray.core.records import UnscoredReason
from bolt_ray.rewards.settings import RewardSettings

MAX_FAILED_STARTS = 3
"""Replacements in a row that may fail before the pool gives up."""


@dataclass(slots=True, kw_only=True)
class _Batch:
    """Completions handed to one scorer together; ``tries`` counts the scorers lost to them."""

    requests: list[ScoringRequest]
    tries: int = 0


@dataclass(slots=True, kw_only=True)
class _Slot:
    """One place in the pool with its scorer: starting (no batch), idle (no reference) or busy."""

    actor: Any
    process: ProcessInfo | None = None
    ref: Any = None
    batch: _Batch | None = None
    deadline: float = 0.0


class ScorerPool:
    """Scores completions in the background. Not for use by several threads.

    Made by :meth:`start`. The loop calls :meth:`submit` and :meth:`poll`; both return at once (``poll`` waits at
    most ``timeout_s`` if nothing is ready). Results come in the order they are finished.
    """

    def __init__(
        self,
        *,
        specs: Sequence[RewardSettings],
        settings: ScoringSettings,
        by_source: Mapping[str, Sequence[str]],
        eval_by_source: Mapping[str, Sequence[str]],
        batch_deadline_s: float,
    ) -> None:
        self._actor_arguments = {
            "specs": tuple(specs),
            "by_source": {source: tuple(names) for source, names in by_source.items()},
            "eval_by_source": {source: tuple(names) for source, names in eval_by_source.items()},
            "startup_timeout_s": settings.startup_timeout_s,
        }
        self._actor_options = {
            "num_cpus": settings.cpus_per_scorer,
            "num_gpus": settings.gpus_per_scorer,
            "max_restarts": 0,
        }
        self._batch_size = settings.batch_size
        self._startup_timeout_s = settings.startup_timeout_s
        self._num_scorers = settings.num_scorers
        self._batch_deadline_s = batch_deadline_s
        self._queue: deque[_Batch] = deque()
        self._finished: deque[ScoringResult] = deque()
        self._slots: list[_Slot] = []
        self._restarts = 0
        self._launched = 0
        self._failed_starts = 0

    @classmethod
    def start(
        cls,
        *,
        specs: Sequence[RewardSettings],
        settings: ScoringSettings,
        by_source: Mapping[str, Sequence[str]] | None = None,
        eval_by_source: Mapping[str, Sequence[str]] | None = None,
        batch_deadline_s: float | None = None,
    ) -> Self:
        """Start the scorers and wait until every reward is built.

        Args:
            specs: the run's rewards, made definite by ``rewards.settings.definite_rewards``.
            settings: how many scorers, what each asks of the cluster, and their limits.
            by_source, eval_by_source: names of the rewards that apply to a dataset, in training and in evaluation;
                all, for a dataset not in it.
            batch_deadline_s: after this a scorer that has not answered is considered stuck; default: longer
                than the worst a scorer that works can take (every completion timing out in every reward).

        Raises:
            ConfigError: a reward cannot be built.
            EnvironmentProblem: the cluster has no room for the scorers.
        """
        if batch_deadline_s is None:
            batch_deadline_s = worst_case_s(
                specs, batch_size=settings.batch_size, startup_timeout_s=settings.startup_timeout_s
            )
        pool = cls(
            specs=specs,
            settings=settings,
            by_source=by_source or {},
            eval_by_source=eval_by_source or {},
            batch_deadline_s=batch_deadline_s,
        )
        pool._slots = [pool._new_slot() for _ in range(settings.num_scorers)]
        pool._wait_for_start()
        return pool

    @property
    def num_pending(self) -> int:
        """Completions submitted and not yet returned by ``poll``."""
        running = sum(len(slot.batch.requests) for slot in self._slots if slot.batch)
        return running + sum(len(batch.requests) for batch in self._queue) + len(self._finished)

    @property
    def restarts(self) -> int:
        """Scorers replaced so far."""
        return self._restarts

    @property
    def processes(self) -> tuple[ProcessInfo, ...]:
        """The scorers that have answered."""
        return tuple(slot.process for slot in self._slots if slot.process is not None)

    def submit(self, requests: Sequence[ScoringRequest]) -> None:
        """Queue completions and hand them to the scorers that are free; returns at once."""
        for start in range(0, len(requests), self._batch_size):
            self._queue.append(_Batch(requests=list(requests[start : start + self._batch_size])))
        self._feed()

    def poll(self, timeout_s: float = 0.0) -> list[ScoringResult]:
        """The results since the last call.

        Args:
            timeout_s: how long to wait if nothing is ready yet; 0 for not at all.

        Raises:
            StallError: replacements cannot be started.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self._advance(0.0 if self._finished else max(0.0, deadline - time.monotonic()))
            if self._finished or time.monotonic() >= deadline or not self.num_pending:
                done = list(self._finished)
                self._finished.clear()
                return done

    def reset(self) -> None:
        """Forget the completions submitted; a scorer at work on some is free again when it has answered."""
        self._queue.clear()
        self._finished.clear()
        for slot in self._slots:
            if slot.batch is not None:
                slot.batch = _Batch(requests=[])

    def close(self, *, grace_s: float = 5.0) -> None:
        """End the scorers and their reward processes; pending completions are dropped.

        A busy scorer is killed at once: the kernel ends its reward processes with it.
        """
        idle = [slot.actor.close.remote() for slot in self._slots if slot.ref is None]
        if idle:
            ray.wait(idle, num_returns=len(idle), timeout=grace_s)
        for slot in self._slots:
            ray.kill(slot.actor, no_restart=True)
        self._slots = []
        self._queue.clear()
        self._finished.clear()

    def _wait_for_start(self) -> None:
        refs = [slot.ref for slot in self._slots]
        try:
            get_result(refs, timeout_s=2 * self._startup_timeout_s)
        except ConfigError:
            self.close()
            raise
        except GetTimeoutError:
            self.close()
            asked = f"{self._num_scorers} × {self._actor_options['num_cpus']:g} CPU"
            raise EnvironmentProblem(
                f"the scorers did not start within {2 * self._startup_timeout_s:g} s; they ask for {asked} and "
                f"{self._actor_options['num_gpus']:g} GPU each, the cluster has {ray.available_resources()} free"
            ) from None
        except (RayError, ValueError) as problem:
            self.close()
            raise StallError(f"a scorer died while starting: {cause_of(problem)}") from problem
        for slot in self._slots:
            slot.ref = None
        self._feed()

    def _new_slot(self) -> _Slot:
        name = f"scorer-{self._launched}"
        self._launched += 1
        actor = RemoteScorer.options(**self._actor_options).remote(name=name, **self._actor_arguments)
        deadline = time.monotonic() + 2 * self._startup_timeout_s
        return _Slot(actor=actor, ref=actor.start.remote(), deadline=deadline)

    def _feed(self) -> None:
        """Hand queued batches to the free scorers."""
        for slot in self._slots:
            if slot.ref is not None or not self._queue:
                continue
            slot.batch = self._queue.popleft()
            slot.ref = slot.actor.score.remote([request.input for request in slot.batch.requests])
            slot.deadline = time.monotonic() + self._batch_deadline_s

    def _advance(self, timeout_s: float) -> None:
        """Read the results that are there, replace lost scorers, hand out more; waits for at most ``timeout_s``."""
        busy = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        if not busy:
            return
        now = time.monotonic()
        next_deadline = min(slot.deadline for slot in busy.values())
        wait_s = max(0.0, min(timeout_s, next_deadline - now))
        ready, _ = ray.wait(list(busy), num_returns=1, timeout=wait_s)
        if ready:
            ready, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0)
        for ref in ready:
            self._read(busy[ref])
        now = time.monotonic()
        for slot in busy.values():
            if slot.ref is not None and slot.ref not in ready and now >= slot.deadline:
                self._replace(slot, "did not answer before its deadline")
        self._feed()

    def _read(self, slot: _Slot) -> None:
        """Read the reply of a scorer: started, scored, or dead."""
        try:
            reply: ScoredBatch | None = get_result(slot.ref)
        except RayActorError:
            self._replace(slot, "died")
            return
        except (BoltRayError, ValueError, RayError) as problem:
            self._replace(slot, str(cause_of(problem)))
            return
        if slot.batch is None or reply is None:
            self._failed_starts = 0
        else:
            slot.process = reply.process
            if slot.batch.requests:  # not forgotten meanwhile
                self._finished.extend(
                    ScoringResult(request_id=request.request_id, result=result)
                    for request, result in zip(slot.batch.requests, reply.results, strict=True)
                )
        slot.ref, slot.batch = None, None

    def _replace(self, slot: _Slot, why: str) -> None:
        """Kill a scorer, put a new one in its slot, and decide what becomes of its completions."""
        ray.kill(slot.actor, no_restart=True)
        self._restarts += 1
        if slot.batch is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise StallError(f"{self._failed_starts} scorers in a row could not be started; the last: {why}")
        elif slot.batch.tries == 0:
            self._queue.extendleft(_Batch(requests=[request], tries=1) for request in reversed(slot.batch.requests))
        else:
            lost = UnscoredReason(reward="scorer", kind="lost", detail=f"{why}, twice")
            self._finished.extend(
                ScoringResult(request_id=request.request_id, result=lost) for request in slot.batch.requests
            )
        fresh = self._new_slot()
        slot.actor, slot.ref, slot.batch, slot.deadline = fresh.actor, fresh.ref, None, fresh.deadline
        slot.process = None


def worst_case_s(specs: Sequence[RewardSettings], *, batch_size: int, startup_timeout_s: float) -> float:
    """Seconds a working scorer can need for a batch: each completion times out in each reward once.

    After each timeout the reward's process is started anew, which takes a small part of its startup limit.
    """
    restart_s = 0.1 * startup_timeout_s
    return startup_timeout_s + sum(batch_size * (spec.limit_s + restart_s) for spec in specs)
