"""Scorer actors, and the pool that feeds them without ever making the rollout loop wait.

    loop ── submit(completions) ──▶ queue ── batches ──▶ scorer actors ──▶ reward processes
         ◀── poll() ── ScoredCompletion | UnscoredCompletion(reason) ──┘

A scorer that dies, or that does not answer by its batch's deadline, is killed and replaced. Its completions are
tried once more, one by one, so that a second death names its completion; after that they are unscored.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError

from bolt_ray.core.errors import ConfigError, EnvironmentProblem, StallError
from bolt_ray.core.records import Completion, ScoredCompletion, UnscoredCompletion
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.registry import RewardSpec
from bolt_ray.rewards.reward_set import RewardResult, RewardSet
from bolt_ray.rewards.unscored import reason_kind

Outcome = ScoredCompletion | UnscoredCompletion

MAX_FAILED_STARTS = 3
"""Replacements in a row that may fail before the pool gives up."""


def reward_input(completion: Completion) -> RewardInput:
    """What the rewards are told of a completion."""
    prompt = completion.request.drawn.prompt
    return RewardInput(
        prompt=prompt.prompt,
        completion=completion.text,
        answer=prompt.answer,
        metadata=prompt.metadata,
        source=prompt.source,
        truncated=completion.truncated,
        num_tokens=int(completion.token_ids.shape[0]),
        evaluation=completion.request.for_evaluation,
    )


class Scorer:
    """The actor: a :class:`RewardSet` behind two calls.

    Args:
        specs: the run's rewards.
        by_source, eval_by_source: names of the rewards that apply to a dataset, in training and in evaluation; all,
            for a dataset not in it.
        startup_timeout_s: limit on the start of a reward process.
    """

    def __init__(
        self,
        *,
        specs: Sequence[RewardSpec],
        by_source: Mapping[str, Sequence[str]],
        eval_by_source: Mapping[str, Sequence[str]],
        startup_timeout_s: float,
    ) -> None:
        self._rewards = RewardSet(
            specs=specs, by_source=by_source, eval_by_source=eval_by_source, startup_timeout_s=startup_timeout_s
        )

    def start(self) -> None:
        """Start the reward processes.

        Raises:
            ConfigError: a reward cannot be built.
        """
        self._rewards.start()

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardResult | str]:
        """Per completion its rewards, or the reason there is none."""
        return self._rewards.score(inputs)

    def close(self) -> None:
        """End the reward processes."""
        self._rewards.close()


RemoteScorer = ray.remote(Scorer)


@dataclass(slots=True, kw_only=True)
class _Batch:
    """Completions that travel together; ``tries`` counts the scorers lost to them."""

    completions: list[Completion]
    tries: int = 0


@dataclass(slots=True, kw_only=True)
class _Seat:
    """One scorer's place in the pool: starting (no batch), idle (no reference) or busy."""

    actor: Any
    ref: Any = None
    batch: _Batch | None = None
    deadline: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Counts:
    scored: int = 0
    restarts: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


class ScorerPool:
    """Scores completions in the background. Not for use by several threads.

    Made by :meth:`start`. The loop calls :meth:`submit` and :meth:`poll`; both return at once (``poll`` waits at
    most ``timeout_s`` if nothing is ready). Results come in the order they are finished.
    """

    def __init__(
        self,
        *,
        specs: Sequence[RewardSpec],
        by_source: Mapping[str, Sequence[str]],
        eval_by_source: Mapping[str, Sequence[str]],
        num_scorers: int,
        cpus_per_scorer: float,
        gpus_per_scorer: float,
        batch_size: int,
        startup_timeout_s: float,
        batch_deadline_s: float,
    ) -> None:
        self._actor_arguments = {
            "specs": tuple(specs),
            "by_source": {source: tuple(names) for source, names in by_source.items()},
            "eval_by_source": {source: tuple(names) for source, names in eval_by_source.items()},
            "startup_timeout_s": startup_timeout_s,
        }
        self._actor_options = {"num_cpus": cpus_per_scorer, "num_gpus": gpus_per_scorer, "max_restarts": 0}
        self._batch_size = batch_size
        self._startup_timeout_s = startup_timeout_s
        self._batch_deadline_s = batch_deadline_s
        self._num_scorers = num_scorers
        self._queue: deque[_Batch] = deque()
        self._finished: deque[Outcome] = deque()
        self._seats: list[_Seat] = []
        self._counts = _Counts()
        self._failed_starts = 0

    @classmethod
    def start(
        cls,
        *,
        specs: Sequence[RewardSpec],
        by_source: Mapping[str, Sequence[str]] | None = None,
        eval_by_source: Mapping[str, Sequence[str]] | None = None,
        num_scorers: int = 2,
        cpus_per_scorer: float = 0.5,
        gpus_per_scorer: float = 0.0,
        batch_size: int = 16,
        startup_timeout_s: float = 120.0,
        batch_deadline_s: float | None = None,
    ) -> Self:
        """Start the scorers and wait until every reward is built.

        Args:
            specs: the run's rewards, see ``rewards.configured.specs_of``.
            by_source, eval_by_source: names of the rewards that apply to a dataset, in training and in evaluation;
                all, for a dataset not in it.
            num_scorers: scorer actors.
            cpus_per_scorer, gpus_per_scorer: Ray resources of each.
            batch_size: completions a scorer takes at a time.
            startup_timeout_s: limit on a scorer's start, with imports and models.
            batch_deadline_s: after this a scorer that has not answered is taken for stuck; default: longer
                than the worst a scorer that works can take (every completion timing out in every reward).

        Raises:
            ConfigError: a reward cannot be built.
            EnvironmentProblem: the cluster has no room for the scorers.
        """
        if batch_deadline_s is None:
            batch_deadline_s = worst_case_s(specs, batch_size=batch_size, startup_timeout_s=startup_timeout_s)
        pool = cls(
            specs=specs,
            by_source=by_source or {},
            eval_by_source=eval_by_source or {},
            num_scorers=num_scorers,
            cpus_per_scorer=cpus_per_scorer,
            gpus_per_scorer=gpus_per_scorer,
            batch_size=batch_size,
            startup_timeout_s=startup_timeout_s,
            batch_deadline_s=batch_deadline_s,
        )
        pool._seats = [pool._new_seat() for _ in range(num_scorers)]
        pool._wait_for_start()
        return pool

    @property
    def num_pending(self) -> int:
        """Completions submitted and not yet given back."""
        running = sum(len(seat.batch.completions) for seat in self._seats if seat.batch)
        return running + sum(len(batch.completions) for batch in self._queue) + len(self._finished)

    def submit(self, completions: Sequence[Completion]) -> None:
        """Queue completions and hand them to the scorers that are free; returns at once."""
        for start in range(0, len(completions), self._batch_size):
            self._queue.append(_Batch(completions=list(completions[start : start + self._batch_size])))
        self._feed()

    def poll(self, timeout_s: float = 0.0) -> list[Outcome]:
        """What has been finished since the last call.

        Args:
            timeout_s: how long to wait if nothing is ready yet; 0 only looks.

        Raises:
            StallError: scorers cannot be replaced any more.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self._advance(0.0 if self._finished else max(0.0, deadline - time.monotonic()))
            if self._finished or time.monotonic() >= deadline or not self.num_pending:
                done = list(self._finished)
                self._finished.clear()
                return done

    def metrics(self) -> dict[str, float]:
        """Counts since the last call of :meth:`reset_metrics`: scored, unscored, restarts, and each reason."""
        unscored = sum(self._counts.reasons.values())
        total = self._counts.scored + unscored
        return {
            "reward/unscored_fraction": unscored / total if total else 0.0,
            "reward/scorer_restarts": float(self._counts.restarts),
            **{
                f"reward/unscored/{kind.replace(': ', '/')}": float(n)
                for kind, n in sorted(self._counts.reasons.items())
            },
        }

    @property
    def num_scored(self) -> int:
        """Completions scored since the last :meth:`reset_metrics`."""
        return self._counts.scored

    @property
    def reasons(self) -> dict[str, int]:
        """Unscored completions by kind of reason since the last :meth:`reset_metrics`."""
        return dict(self._counts.reasons)

    def reset_metrics(self) -> None:
        """Start counting anew, for instance at each step."""
        self._counts = _Counts()

    def close(self, *, grace_s: float = 5.0) -> None:
        """End the scorers and their reward processes; what was pending is forgotten.

        A busy scorer is killed at once: the kernel ends its reward processes with it.
        """
        idle = [seat.actor.close.remote() for seat in self._seats if seat.ref is None]
        if idle:
            ray.wait(idle, num_returns=len(idle), timeout=grace_s)
        for seat in self._seats:
            ray.kill(seat.actor, no_restart=True)
        self._seats = []
        self._queue.clear()
        self._finished.clear()

    def _wait_for_start(self) -> None:
        refs = [seat.ref for seat in self._seats]
        try:
            ray.get(refs, timeout=2 * self._startup_timeout_s)
        except ConfigError as problem:
            self.close()
            raise ConfigError(_cause(problem)) from None
        except GetTimeoutError:
            self.close()
            asked = f"{self._num_scorers} × {self._actor_options['num_cpus']:g} CPU"
            raise EnvironmentProblem(
                f"the scorers did not start within {2 * self._startup_timeout_s:g} s; they ask for {asked} and "
                f"{self._actor_options['num_gpus']:g} GPU each, the cluster has {ray.available_resources()} free"
            ) from None
        except RayError as problem:
            self.close()
            raise StallError(f"a scorer died while starting: {_cause(problem)}") from problem
        for seat in self._seats:
            seat.ref = None
        self._feed()

    def _new_seat(self) -> _Seat:
        actor = RemoteScorer.options(**self._actor_options).remote(**self._actor_arguments)
        deadline = time.monotonic() + 2 * self._startup_timeout_s
        return _Seat(actor=actor, ref=actor.start.remote(), deadline=deadline)

    def _feed(self) -> None:
        """Give the free scorers work."""
        for seat in self._seats:
            if seat.ref is not None or not self._queue:
                continue
            seat.batch = self._queue.popleft()
            inputs = [reward_input(completion) for completion in seat.batch.completions]
            seat.ref = seat.actor.score.remote(inputs)
            seat.deadline = time.monotonic() + self._batch_deadline_s

    def _advance(self, timeout_s: float) -> None:
        """Take what is ready, replace who is lost, and hand out more; waits for at most ``timeout_s``."""
        busy = {seat.ref: seat for seat in self._seats if seat.ref is not None}
        if not busy:
            return
        now = time.monotonic()
        next_deadline = min(seat.deadline for seat in busy.values())
        wait_s = max(0.0, min(timeout_s, next_deadline - now))
        ready, _ = ray.wait(list(busy), num_returns=1, timeout=wait_s)
        if ready:
            ready, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0)
        for ref in ready:
            self._take(busy[ref])
        now = time.monotonic()
        for seat in busy.values():
            if seat.ref is not None and seat.ref not in ready and now >= seat.deadline:
                self._replace(seat, "did not answer before its deadline")
        self._feed()

    def _take(self, seat: _Seat) -> None:
        """Read the answer of a scorer that is ready: started, scored, or dead."""
        try:
            results = ray.get(seat.ref)
        except RayActorError:
            self._replace(seat, "died")
            return
        except (ConfigError, RayError) as problem:
            self._replace(seat, _cause(problem))
            return
        if seat.batch is None:
            self._failed_starts = 0
        else:
            for completion, result in zip(seat.batch.completions, results, strict=True):
                self._finish(completion, result)
        seat.ref, seat.batch = None, None

    def _replace(self, seat: _Seat, why: str) -> None:
        """Kill a scorer, put a new one in its seat, and decide what becomes of its completions."""
        ray.kill(seat.actor, no_restart=True)
        self._counts.restarts += 1
        if seat.batch is None:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise StallError(f"{self._failed_starts} scorers in a row could not be started; the last: {why}")
        elif seat.batch.tries == 0:
            self._queue.extendleft(_Batch(completions=[c], tries=1) for c in reversed(seat.batch.completions))
        else:
            for completion in seat.batch.completions:
                self._finish(completion, f"scorer: lost: {why}, twice")
        fresh = self._new_seat()
        seat.actor, seat.ref, seat.batch, seat.deadline = fresh.actor, fresh.ref, None, fresh.deadline

    def _finish(self, completion: Completion, result: RewardResult | str) -> None:
        if isinstance(result, str):
            self._counts.reasons[reason_kind(result)] += 1
            self._finished.append(UnscoredCompletion(completion=completion, reason=result))
            return
        self._counts.scored += 1
        self._finished.append(
            ScoredCompletion(
                completion=completion,
                reward=result.reward,
                tracker_reward=result.tracker_reward,
                parts=result.parts,
            )
        )


def worst_case_s(specs: Sequence[RewardSpec], *, batch_size: int, startup_timeout_s: float) -> float:
    """Seconds a working scorer can need for a batch: each completion times out in each reward once.

    After each timeout the reward's process is started anew, which takes a small part of its startup limit.
    """
    restart_s = 0.1 * startup_timeout_s
    return startup_timeout_s + sum(batch_size * (spec.timeout_s + restart_s) for spec in specs)


def _cause(problem: BaseException) -> str:
    """The message of the error a Ray task raised, without Ray's copy of the remote traceback."""
    cause = getattr(problem, "cause", None)
    return str(cause if cause is not None else problem)
