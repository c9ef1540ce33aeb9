"""The driver's side of scoring: a pool of scorer actors that never makes the rollout loop wait.

    submit(requests) ──▶ queue ── batches ──▶ scorer actors ──▶ reward processes
    poll() ◀── ScoringResult(request_id, RewardResult | UnscoredReason) ──┘

A scorer that dies, or that does not answer by its batch's deadline, is killed and replaced. Its completions are
tried once more, one by one, so that a second death identifies its completion; after that they are unscored.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.scorer_actor import ScoringRequest, ScoringResult
from bolt_ray.actors.scorer_seat import Batch, ScorerActors
from bolt_ray.actors.scorer_seats import Lost, ScorerSeats
from bolt_ray.actors.settings import ScoringSettings
from bolt_ray.core.records import UnscoredReason
from bolt_ray.rewards.settings import RewardSettings


class ScorerPool:
    """Scores completions in the background. Not for use by several threads.

    Made by :meth:`start`. The loop calls :meth:`submit` and :meth:`poll`; both return at once (``poll`` waits at
    most ``timeout_s`` if nothing is ready). Results come in the order they are finished.
    """

    def __init__(self, *, seats: ScorerSeats, batch_size: int, now: Callable[[], float] = time.monotonic) -> None:
        self._seats = seats
        self._batch_size = batch_size
        self._now = now
        self._queue: deque[Batch] = deque()
        self._finished: deque[ScoringResult] = deque()

    @classmethod
    def start(
        cls,
        *,
        specs: Sequence[RewardSettings],
        settings: ScoringSettings,
        by_source: Mapping[str, Sequence[str]] | None = None,
        eval_by_source: Mapping[str, Sequence[str]] | None = None,
        batch_deadline_s: float | None = None,
        room_s: float,
        failure_window_s: float,
    ) -> Self:
        """Start the scorers and wait until enough of them have built every reward.

        Args:
            specs: the run's rewards, made definite by ``rewards.settings.definite_rewards``.
            settings: how many scorers, what each asks of the cluster, and their limits.
            by_source, eval_by_source: names of the rewards that apply to a dataset, in training and in evaluation;
                all, for a dataset not in it.
            batch_deadline_s: after this a scorer that has not answered is considered stuck; default: longer
                than the worst a scorer that works can take (every completion timing out in every reward).
            room_s: how long all scorers may wait for a node, while nodes boot or after one was lost.
            failure_window_s: within which failed starts are counted.

        Raises:
            ConfigError: a reward cannot be built.
            EnvironmentProblem: the cluster has no room for the scorers.
            StallError: they die while starting.
        """
        pool = cls.of(
            specs=specs,
            settings=settings,
            by_source=by_source or {},
            eval_by_source=eval_by_source or {},
            batch_deadline_s=batch_deadline_s,
            room_s=room_s,
            failure_window_s=failure_window_s,
        )
        started = False
        try:
            pool._seats.launch()
            pool._seats.wait_ready()
            started = True
        finally:
            if not started:
                pool.close()
        return pool

    @classmethod
    def of(
        cls,
        *,
        specs: Sequence[RewardSettings],
        settings: ScoringSettings,
        by_source: Mapping[str, Sequence[str]],
        eval_by_source: Mapping[str, Sequence[str]],
        batch_deadline_s: float | None,
        room_s: float,
        failure_window_s: float,
    ) -> Self:
        """The pool before its first scorer; see `start`."""
        startup_s = settings.startup_timeout_s
        actors = ScorerActors(
            arguments={
                "specs": tuple(specs),
                "by_source": {source: tuple(names) for source, names in by_source.items()},
                "eval_by_source": {source: tuple(names) for source, names in eval_by_source.items()},
                "startup_timeout_s": startup_s,
            },
            num_cpus=settings.cpus_per_scorer,
            num_gpus=settings.gpus_per_scorer,
        )
        if batch_deadline_s is None:
            batch_deadline_s = worst_case_s(specs, batch_size=settings.batch_size, startup_timeout_s=startup_s)
        seats = ScorerSeats(
            settings=settings,
            batch_deadline_s=batch_deadline_s,
            room_s=room_s,
            failure_window_s=failure_window_s,
            actors=actors,
        )
        return cls(seats=seats, batch_size=settings.batch_size)

    @property
    def num_pending(self) -> int:
        """Completions submitted and not yet returned by ``poll``."""
        running = sum(len(seat.batch.requests) for seat in self._seats.seats if seat.batch)
        return running + sum(len(batch.requests) for batch in self._queue) + len(self._finished)

    @property
    def restarts(self) -> int:
        """Scorers replaced so far; not those that left a draining node."""
        return self._seats.replaced

    @property
    def processes(self) -> tuple[ProcessInfo, ...]:
        """The scorers that have answered."""
        return tuple(seat.process for seat in list(self._seats.seats) if seat.process is not None)

    def submit(self, requests: Sequence[ScoringRequest]) -> None:
        """Queue completions and hand them to the scorers that are free; returns at once."""
        for start in range(0, len(requests), self._batch_size):
            self._queue.append(Batch(requests=list(requests[start : start + self._batch_size])))
        self._feed()

    def poll(self, timeout_s: float = 0.0) -> list[ScoringResult]:
        """The results since the last call.

        Args:
            timeout_s: how long to wait if nothing is ready yet; 0 for not at all.

        Raises:
            StallError: no scorer works, and none can be started.
        """
        deadline = self._now() + timeout_s
        while True:
            self._advance(0.0 if self._finished else max(0.0, deadline - self._now()))
            if self._finished or self._now() >= deadline or not self.num_pending:
                done = list(self._finished)
                self._finished.clear()
                return done

    def reset(self) -> None:
        """Forget the completions submitted; a scorer at work on some is free again when it has answered."""
        self._queue.clear()
        self._finished.clear()
        self._seats.forget()

    def close(self, *, grace_s: float = 5.0) -> None:
        """End the scorers and their reward processes; pending completions are dropped.

        A busy scorer is killed at once: the kernel ends its reward processes with it.
        """
        self._seats.close(grace_s=grace_s)
        self._queue.clear()
        self._finished.clear()

    def _feed(self) -> None:
        """Hand queued batches to the free scorers."""
        for seat in self._seats.free():
            if self._queue:
                self._seats.give(seat, self._queue.popleft())

    def _advance(self, timeout_s: float) -> None:
        """Read the results that are there, decide about lost completions, hand out more."""
        for ended in self._seats.advance(timeout_s, queued=bool(self._queue)):
            if isinstance(ended, Lost):
                self._give_back(ended)
            elif ended.batch.requests:  # not forgotten meanwhile
                self._finished.extend(
                    ScoringResult(request_id=request.request_id, result=result)
                    for request, result in zip(ended.batch.requests, ended.reply.results, strict=True)
                )
        self._feed()

    def _give_back(self, lost: Lost) -> None:
        """Try the completions of a lost batch again, unless they took a scorer with them before."""
        requests = lost.batch.requests
        if not requests:  # forgotten meanwhile
            return
        if not lost.guilty:
            self._queue.appendleft(lost.batch)
        elif lost.batch.tries == 0:
            self._queue.extendleft(Batch(requests=[request], tries=1) for request in reversed(requests))
        else:
            reason = UnscoredReason(reward="scorer", kind="lost", detail=f"{lost.why}, twice")
            self._finished.extend(ScoringResult(request_id=each.request_id, result=reason) for each in requests)


def worst_case_s(specs: Sequence[RewardSettings], *, batch_size: int, startup_timeout_s: float) -> float:
    """Seconds a working scorer can need for a batch: each completion times out in each reward once.

    After each timeout the reward's process is started anew, which takes a small part of its startup limit.
    """
    restart_s = 0.1 * startup_timeout_s
    return startup_timeout_s + sum(batch_size * (spec.limit_s + restart_s) for spec in specs)
