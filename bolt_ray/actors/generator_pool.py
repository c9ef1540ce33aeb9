"""The driver's side of generation: a pool of generators that outlives any one of them.

    submit(requests) ─▶ least loaded member ─▶ poll() ─▶ completions, each request answered once
    update_weights ───▶ every admitted member, acknowledged ─▶ version

    a member:  starting ──▶ syncing ──▶ live ──▶ (dies, stalls or cannot be updated: replaced)
                            brought to the current version before it is admitted

A replaced member's requests are issued again under the same ids. Generators that join later take the same path.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayTaskError

from bolt_ray.actors.generator_actor import RemoteGenerator, Taken
from bolt_ray.actors.generator_handle import Job, Member, Update, bare, first_line, reply_of
from bolt_ray.core.errors import BoltRayError, RunError, StallError, UserError, WeightSyncError
from bolt_ray.core.records import Completion, RolloutRequest
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.settings import EngineSettings
from bolt_ray.engines.vllm.weights import PoisonedEngineError
from bolt_ray.engines.weight_buckets import WeightManifest

LONG_POLL_S = 1.0
WAIT_S = 0.05

log = logging.getLogger(__name__)

Scores = list[NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorResources:
    """What one generator asks Ray for, and how many threads it computes with.

    Attributes:
        num_cpus, num_gpus: as Ray counts them; a generator that asks for nothing never makes a cluster grow.
        num_threads: threads of one matrix product on CPU.
    """

    num_cpus: float = 1.0
    num_gpus: float = 0.0
    num_threads: int = 1


class GeneratorPool:
    """See the module's picture. Single-threaded: the pool moves only inside its methods."""

    def __init__(
        self,
        *,
        num_generators: int,
        engine: EngineSettings,
        sampling: SamplingSettings,
        resources: GeneratorResources,
        policy_version: int = 0,
        startup_s: float = 600.0,
        stall_s: float = 600.0,
        max_replacements: int = 8,
    ) -> None:
        """Launch ``num_generators`` ≥ 1 and return; ``wait_ready`` waits for them.

        Args:
            policy_version: names the weights in ``engine.model_dir``.
            startup_s: longest start of a generator.
            stall_s: longest time a generator with work may show no progress.
            max_replacements: generators replaced before the pool gives up.
        """
        if num_generators < 1:
            raise ValueError(f"a pool needs a generator, not {num_generators}")
        self._engine = engine
        self._sampling = sampling
        self._resources = resources
        self._first_version = policy_version
        self._startup_s = startup_s
        self._stall_s = stall_s
        self._max_replacements = max_replacements
        self._replaced: list[str] = []
        self._update: Update | None = None
        self._backlog: deque[Job] = deque()
        self._answered: list[Completion] = []
        self._looked_at = time.monotonic()
        self._members = [self._launch() for _ in range(num_generators)]

    @classmethod
    def start(cls, *, idle: Callable[[], None] = lambda: None, **settings: Any) -> GeneratorPool:
        """``GeneratorPool(**settings)``, ready."""
        pool = cls(**settings)
        try:
            pool.wait_ready(idle=idle)
        except BaseException:
            pool.close()
            raise
        return pool

    @property
    def version(self) -> int:
        """The policy version every admitted generator has acknowledged."""
        return self._first_version if self._update is None else self._update.version

    @property
    def outstanding(self) -> int:
        """Requests submitted and not yet returned by ``poll``."""
        return len(self._backlog) + sum(len(member.jobs) for member in self._members) + len(self._answered)

    @property
    def num_live(self) -> int:
        return sum(member.state == "live" for member in self._members)

    @property
    def replacements(self) -> tuple[str, ...]:
        """Why each generator replaced so far was replaced."""
        return tuple(self._replaced)

    @property
    def pids(self) -> list[int]:
        """Process ids of the live generators."""
        return [member.pid for member in self._members if member.state == "live"]

    def wait_ready(self, *, idle: Callable[[], None] = lambda: None) -> None:
        """Until every generator is live.

        Raises:
            UserError: what a generator said when it could not start.
            StallError: one did not start in time, too often.
        """
        while self.num_live < len(self._members):
            self._advance(WAIT_S)
            idle()

    def submit(self, requests: Sequence[RolloutRequest], sampling: SamplingSettings | None = None) -> None:
        """Hand requests out; ``sampling`` takes the place of the pool's own settings for these."""
        self._backlog.extend(Job(request, sampling or self._sampling) for request in requests)
        self._dispatch()

    def poll(self, timeout_s: float) -> list[Completion]:
        """What is finished; waits up to ``timeout_s`` for something when nothing is.

        Raises:
            DataError: a generator refused a prompt.
            RunError: too many generators had to be replaced.
        """
        deadline = time.monotonic() + timeout_s
        self._advance(0.0)
        while not self._answered and self.outstanding and (left := deadline - time.monotonic()) > 0:
            self._advance(left)
        answered, self._answered = self._answered, []
        return answered

    def update_weights(
        self,
        manifest: WeightManifest,
        buckets: Sequence[Any],
        version: int,
        *,
        probe: Sequence[Sequence[int]] = (),
        timeout_s: float = 300.0,
    ) -> list[Scores]:
        """Bring every live generator to ``version``; returns when all have acknowledged.

        Requests in flight go on under the new weights. A generator that fails is replaced and joins at ``version``.

        Args:
            buckets: object references, in the manifest's order; kept until the next update for late joiners.
            probe: token sequences each generator scores under the new weights.

        Returns:
            For each generator that acknowledged, ``VLLMEngine.score`` of ``probe``.

        Raises:
            WeightSyncError: the weights are not those of the model; no generator was changed.
        """
        return self._apply(Update(version=version, manifest=manifest, buckets=buckets), probe, timeout_s)

    def update_adapter(
        self, path: str, version: int, *, probe: Sequence[Sequence[int]] = (), timeout_s: float = 300.0
    ) -> list[Scores]:
        """The same with a LoRA adapter's directory, which every generator's machine can read."""
        return self._apply(Update(version=version, adapter=path), probe, timeout_s)

    def score(self, sequences: Sequence[Sequence[int]], *, timeout_s: float = 300.0) -> list[Scores]:
        """``VLLMEngine.score`` from every live generator."""
        calls = {member: member.actor.score.remote(sequences) for member in self._live()}
        return self._gather(calls, what="scores", timeout_s=timeout_s)

    def scale_to(self, num_generators: int) -> None:
        """Launch generators, or retire the least loaded down to one; their requests are issued again."""
        while len(self._members) > max(num_generators, 1):
            member = min(self._members, key=lambda m: (m.state == "live", m.load))
            self._members.remove(member)
            self._retire(member)
        self._members += [self._launch() for _ in range(num_generators - len(self._members))]
        self._dispatch()

    def close(self) -> None:
        """End every generator. Requests not answered are forgotten."""
        for member in self._members:
            ray.kill(member.actor)
        self._members = []
        self._backlog.clear()
        self._update = None

    def _launch(self) -> Member:
        threads = str(self._resources.num_threads)
        actor = RemoteGenerator.options(
            num_cpus=self._resources.num_cpus,
            num_gpus=self._resources.num_gpus,
            # Its methods block: the long poll beside submit, update, score and health.
            max_concurrency=8,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        ).remote()
        call = actor.start.remote(self._engine, self._sampling, self._first_version)
        return Member(actor=actor, call=call, moved_at=time.monotonic())

    def _live(self) -> list[Member]:
        return [member for member in self._members if member.state == "live"]

    def _dispatch(self) -> None:
        """Give the backlog to the live members, each request to the one with the fewest tokens to come."""
        live = self._live()
        if not live or not self._backlog:
            return
        batches: dict[tuple[int, SamplingSettings], list[Job]] = {}
        while self._backlog:
            job = self._backlog.popleft()
            index = min(range(len(live)), key=lambda i: live[i].load)
            live[index].load += job.tokens
            batches.setdefault((index, job.sampling), []).append(job)
        for (index, sampling), jobs in batches.items():
            member = live[index]
            if not member.jobs:
                member.moved_at = time.monotonic()
            member.jobs.update((job.request.request_id, job) for job in jobs)
            call = member.actor.submit.remote([bare(job.request) for job in jobs], sampling)
            member.submits[call] = [job.request.request_id for job in jobs]

    def _advance(self, timeout_s: float) -> None:
        """Wait for any reply, act on all that are there, then look for members that are late."""
        away = time.monotonic() - self._looked_at
        for member in self._members:
            # While nobody looked nobody could be seen to move.
            member.moved_at += away
        calls = {ref: member for member in self._members for ref in (member.call, *member.submits)}
        if not calls:
            return
        # ray.wait with several wanted returns late: ask for one, then for what else is there.
        done, _ = ray.wait(list(calls), num_returns=1, timeout=min(timeout_s, LONG_POLL_S))
        if done:
            done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for ref in done:
            member = calls[ref]
            if member in self._members:
                self._react(member, ref)
        self._replace_stalled()
        self._dispatch()
        self._looked_at = time.monotonic()

    def _react(self, member: Member, ref: Any) -> None:
        """Act on one reply of a member."""
        try:
            reply = reply_of(ref)
        except UserError:
            for request_id in member.submits.pop(ref, ()):
                member.drop(request_id)
            raise
        except WeightSyncError as error:
            if not isinstance(error, PoisonedEngineError):
                raise
            self._replace(member, str(error))
            return
        except (RayActorError, RayTaskError, BoltRayError) as error:
            self._replace(member, first_line(error))
            return
        if ref in member.submits:
            del member.submits[ref]
        elif member.state == "starting":
            member.pid = reply
            self._bring_up(member)
        elif member.state == "syncing":
            self._bring_up(member)
        else:
            self._collect(member, reply)

    def _bring_up(self, member: Member) -> None:
        """Admit a member that has the current weights; otherwise send them first."""
        member.moved_at = time.monotonic()
        if self._update is None or member.update is self._update:
            member.state = "live"
            member.call = member.actor.take.remote(LONG_POLL_S)
        else:
            member.state, member.update = "syncing", self._update
            member.call = self._update.send(member.actor, ())

    def _collect(self, member: Member, taken: Taken) -> None:
        for completion in taken.completions:
            job = member.drop(completion.request.request_id)
            if job is not None:
                self._answered.append(replace(completion, request=job.request))
        if taken.progress != member.progress or not member.jobs:
            member.progress, member.moved_at = taken.progress, time.monotonic()
        member.call = member.actor.take.remote(LONG_POLL_S)

    def _replace_stalled(self) -> None:
        now = time.monotonic()
        for member in list(self._members):
            waited = now - member.moved_at
            if member.state == "live" and member.jobs and waited > self._stall_s:
                self._replace(member, f"no token for {waited:.0f} s with {len(member.jobs)} requests waiting")
            elif member.state == "syncing" and waited > self._startup_s:
                self._replace(member, f"still loading weights after {waited:.0f} s")
            elif member.state == "starting" and waited > self._startup_s and not self._live():
                # Beside live generators it may wait for as long as a cluster takes to grow.
                raise StallError(
                    f"a generator did not start within {waited:.0f} s; it asks for {self._resources.num_cpus:g} CPUs "
                    f"and {self._resources.num_gpus:g} GPUs on one machine: are they free?"
                )

    def _replace(self, member: Member, reason: str) -> None:
        log.warning("a generator is replaced: %s", reason)
        self._replaced.append(reason)
        self._members.remove(member)
        waiting = len(member.jobs)
        self._retire(member)
        if len(self._replaced) > self._max_replacements:
            raise RunError(
                f"{len(self._replaced)} generators had to be replaced, more than the {self._max_replacements} allowed; "
                f"the last, with {waiting} requests unanswered: {reason}"
            )
        self._members.append(self._launch())

    def _retire(self, member: Member) -> None:
        """End a member; what it has not answered goes to the front of the backlog."""
        ray.kill(member.actor)
        self._backlog.extendleft(reversed(member.jobs.values()))

    def _apply(self, update: Update, probe: Sequence[Sequence[int]], timeout_s: float) -> list[Scores]:
        before, self._update = self._update, update
        calls = {member: update.send(member.actor, probe) for member in self._live()}
        try:
            scores = self._gather(calls, what=f"the weights of version {update.version}", timeout_s=timeout_s)
        except (WeightSyncError, UserError):
            self._update = before
            raise
        return scores

    def _gather(self, calls: dict[Member, Any], *, what: str, timeout_s: float) -> list[Any]:
        """The replies of ``calls``; members that fail or stay silent are replaced."""
        deadline = time.monotonic() + timeout_s
        replies = []
        for member, ref in calls.items():
            left = max(0.0, deadline - time.monotonic())
            try:
                replies.append(reply_of(ref, timeout_s=left))
            except ray.exceptions.GetTimeoutError:
                self._replace(member, f"no answer about {what} in {timeout_s:.0f} s")
            except PoisonedEngineError as error:
                self._replace(member, str(error))
            except (WeightSyncError, UserError):
                raise
            except (RayActorError, RayTaskError, BoltRayError) as error:
                self._replace(member, first_line(error))
            else:
                member.moved_at = time.monotonic()
        return replies
