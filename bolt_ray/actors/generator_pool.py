"""The driver's side of generation: a pool of generators that outlives any one of them.

    submit(requests) ─▶ least loaded generator ─▶ poll() ─▶ completions, each request answered once
    update_weights ───▶ every live generator, acknowledged ─▶ version

    a generator:  starting ──▶ syncing ──▶ live ──▶ (dies, stalls or cannot be updated: replaced)
                               brought to the current version before it gets requests

A replaced generator's requests are issued again under the same ids. Generators that join later take the same path.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayTaskError

from bolt_ray.actors.generator_actor import PollResult, RemoteGenerator
from bolt_ray.actors.generator_handle import GeneratorHandle, InFlightRequest, WeightUpdate
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.ray_results import first_line, get_result
from bolt_ray.core.errors import BoltRayError, RunError, StallError, UserError, WeightSyncError
from bolt_ray.core.records import Completion, GenerationRequest
from bolt_ray.engines.profiler import ProfileTarget
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.settings import EngineSettings
from bolt_ray.engines.vllm.statistics import EngineStatistics
from bolt_ray.engines.vllm.weights import CorruptedEngineError
from bolt_ray.engines.weight_buckets import WeightManifest

LONG_POLL_S = 1.0
WAIT_S = 0.05

log = logging.getLogger(__name__)

Scores = list[NDArray[np.float32]]

_GENERATOR_ERRORS = (RayActorError, RayTaskError, BoltRayError, ValueError)
"""After these a generator is replaced, unless they say that the request or the weights are at fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorResources:
    """What one generator asks Ray for, and how many threads it computes with.

    Attributes:
        num_cpus, num_gpus: as Ray counts them; a generator that asks for nothing never makes a cluster grow.
        num_threads: threads of one matrix product on CPU.
    """

    num_cpus: float
    num_gpus: float
    num_threads: int

    def actor(self, name: str) -> Any:
        """A generator that has yet to start."""
        threads = str(self.num_threads)
        return RemoteGenerator.options(
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            # Its methods block: the long poll beside submit, update and score.
            max_concurrency=8,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        ).remote(name)


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
        startup_s: float,
        stall_s: float,
        max_replacements: int,
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
        self._launched = 0
        self._statistics = EngineStatistics()
        self._update: WeightUpdate | None = None
        self._backlog: deque[InFlightRequest] = deque()
        self._finished: list[Completion] = []
        self._checked_at = time.monotonic()
        self._handles = [self._launch() for _ in range(num_generators)]

    @property
    def version(self) -> int:
        """The policy version every live generator has acknowledged."""
        return self._first_version if self._update is None else self._update.version

    @property
    def outstanding(self) -> int:
        """Requests submitted and not yet returned by ``poll``."""
        return len(self._backlog) + sum(len(handle.in_flight) for handle in self._handles) + len(self._finished)

    @property
    def progress(self) -> int:
        """Changes with every token of any generator."""
        return sum(handle.progress for handle in self._handles)

    @property
    def num_live(self) -> int:
        return sum(handle.state == "live" for handle in self._handles)

    @property
    def replacements(self) -> tuple[str, ...]:
        """Why each generator replaced so far was replaced."""
        return tuple(self._replaced)

    @property
    def processes(self) -> tuple[ProcessInfo, ...]:
        """The generators that have started."""
        return tuple(handle.process for handle in self._handles if handle.process is not None)

    def take_statistics(self) -> EngineStatistics:
        """What happened in the engines since the last call."""
        taken, self._statistics = self._statistics, EngineStatistics()
        return taken

    def profile(self, target: ProfileTarget | None) -> None:
        """Let every live generator record what it does, or end that; not waited for."""
        for handle in self._live():
            handle.actor.profile.remote(target)

    def wait_ready(self, *, idle: Callable[[], None] = lambda: None) -> None:
        """Wait until every generator is live.

        Raises:
            UserError: raised by a generator that cannot start.
            StallError: one did not start in time, too often.
        """
        while self.num_live < len(self._handles):
            self._advance(WAIT_S)
            idle()

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingSettings | None = None) -> None:
        """Queue requests; ``sampling`` replaces the pool's own settings for these."""
        self._backlog.extend(InFlightRequest(request, sampling or self._sampling) for request in requests)
        self._dispatch()

    def poll(self, timeout_s: float) -> list[Completion]:
        """The completions finished since the last call; waits up to ``timeout_s`` for something when nothing is.

        Raises:
            DataError: a generator refused a prompt.
            RunError: too many generators had to be replaced.
        """
        deadline = time.monotonic() + timeout_s
        self._advance(0.0)
        while not self._finished and self.outstanding and (left := deadline - time.monotonic()) > 0:
            self._advance(left)
        finished, self._finished = self._finished, []
        return finished

    def update_weights(
        self,
        manifest: WeightManifest,
        buckets: Sequence[Any],
        version: int,
        *,
        probes: Sequence[Sequence[int]] = (),
        timeout_s: float,
    ) -> list[Scores]:
        """Bring every live generator to ``version``; returns when all have acknowledged.

        Requests in flight go on under the new weights. A generator that fails is replaced and joins at ``version``.

        Args:
            buckets: object references, in the manifest's order; kept until the next update for late joiners.
            probes: token sequences each generator scores under the new weights.

        Returns:
            For each generator that acknowledged, ``VLLMEngine.score`` of ``probes``.

        Raises:
            WeightSyncError: the weights are not those of the model; no generator was changed.
        """
        return self._apply(WeightUpdate(version=version, manifest=manifest, buckets=buckets), probes, timeout_s)

    def update_adapter(
        self, path: str, version: int, *, probes: Sequence[Sequence[int]] = (), timeout_s: float
    ) -> list[Scores]:
        """The same with a LoRA adapter's directory, which every generator's machine can read."""
        return self._apply(WeightUpdate(version=version, adapter=path), probes, timeout_s)

    def score(self, sequences: Sequence[Sequence[int]], *, timeout_s: float) -> list[Scores]:
        """``VLLMEngine.score`` from every live generator."""
        calls = {handle: handle.actor.score.remote(sequences) for handle in self._live()}
        return self._gather(calls, what="scores", timeout_s=timeout_s)

    def close(self) -> None:
        """End every generator; unanswered requests are dropped."""
        for handle in self._handles:
            ray.kill(handle.actor)
        self._handles = []
        self._backlog.clear()
        self._update = None

    def _launch(self) -> GeneratorHandle:
        actor = self._resources.actor(f"generator-{self._launched}")
        self._launched += 1
        call = actor.start.remote(self._engine, self._sampling, self._first_version)
        return GeneratorHandle(actor=actor, call=call, active_at=time.monotonic())

    def _live(self) -> list[GeneratorHandle]:
        return [handle for handle in self._handles if handle.state == "live"]

    def _dispatch(self) -> None:
        """Give the backlog to the live generators, each request to the one with the smallest load."""
        live = self._live()
        if not live or not self._backlog:
            return
        batches: dict[tuple[int, SamplingSettings], list[InFlightRequest]] = {}
        while self._backlog:
            waiting = self._backlog.popleft()
            index = min(range(len(live)), key=lambda i: live[i].load)
            live[index].load += waiting.num_tokens
            batches.setdefault((index, waiting.sampling), []).append(waiting)
        for (index, sampling), batch in batches.items():
            handle = live[index]
            if not handle.in_flight:
                handle.active_at = time.monotonic()
            ids = [waiting.request.request_id for waiting in batch]
            handle.in_flight.update(zip(ids, batch, strict=True))
            handle.submits[handle.actor.submit.remote([waiting.request for waiting in batch], sampling)] = ids

    def _advance(self, timeout_s: float) -> None:
        """Wait for any reply, act on all that are there, then replace the generators that stall."""
        for handle in self._handles:
            # Time during which the pool was not polled counts against no generator.
            handle.active_at += time.monotonic() - self._checked_at
        calls = {ref: handle for handle in self._handles for ref in (handle.call, *handle.submits)}
        if not calls:
            return
        # ray.wait for several returns late: wait for one, then collect the others that are ready.
        done, _ = ray.wait(list(calls), num_returns=1, timeout=min(timeout_s, LONG_POLL_S))
        if done:
            done, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
        for ref in done:
            handle = calls[ref]
            if handle in self._handles:
                self._react(handle, ref)
        self._replace_stalled()
        self._dispatch()
        self._checked_at = time.monotonic()

    def _react(self, handle: GeneratorHandle, ref: Any) -> None:
        """Act on one reply of a generator."""
        try:
            reply = get_result(ref)
        except UserError:
            for request_id in handle.submits.pop(ref, ()):
                handle.remove(request_id)
            raise
        except WeightSyncError as error:
            if not isinstance(error, CorruptedEngineError):
                raise
            self._replace(handle, str(error))
            return
        except _GENERATOR_ERRORS as error:
            self._replace(handle, first_line(error))
            return
        if ref in handle.submits:
            del handle.submits[ref]
        elif handle.state == "starting":
            handle.process = reply
            self._bring_up(handle)
        elif handle.state == "syncing":
            self._bring_up(handle)
        else:
            self._collect(handle, reply)

    def _bring_up(self, handle: GeneratorHandle) -> None:
        """Give requests to a generator that has the current weights; otherwise send them first."""
        handle.active_at = time.monotonic()
        if self._update is None or handle.update is self._update:
            handle.state = "live"
            handle.call = handle.actor.poll.remote(LONG_POLL_S)
        else:
            handle.state, handle.update = "syncing", self._update
            handle.call = self._update.send(handle.actor, ())

    def _collect(self, handle: GeneratorHandle, result: PollResult) -> None:
        for completion in result.completions:
            if handle.remove(completion.request_id) is not None:
                self._finished.append(completion)
        self._statistics += result.statistics
        handle.process = result.process
        if result.progress != handle.progress or not handle.in_flight:
            handle.progress, handle.active_at = result.progress, time.monotonic()
        handle.call = handle.actor.poll.remote(LONG_POLL_S)

    def _replace_stalled(self) -> None:
        now = time.monotonic()
        for handle in list(self._handles):
            waited = now - handle.active_at
            if handle.state == "live" and handle.in_flight and waited > self._stall_s:
                self._replace(handle, f"no token for {waited:.0f} s with {len(handle.in_flight)} requests waiting")
            elif handle.state == "syncing" and waited > self._startup_s:
                self._replace(handle, f"still loading weights after {waited:.0f} s")
            elif handle.state == "starting" and waited > self._startup_s and not self._live():
                # Beside live generators it may take as long as the cluster needs to grow.
                raise StallError(
                    f"a generator did not start within {waited:.0f} s; it asks for {self._resources.num_cpus:g} CPUs "
                    f"and {self._resources.num_gpus:g} GPUs on one machine: are they free?"
                )

    def _replace(self, handle: GeneratorHandle, reason: str) -> None:
        log.warning("a generator is replaced: %s", reason)
        self._replaced.append(reason)
        self._handles.remove(handle)
        waiting = len(handle.in_flight)
        ray.kill(handle.actor)
        # What it has not answered comes first.
        self._backlog.extendleft(reversed(handle.in_flight.values()))
        if len(self._replaced) > self._max_replacements:
            raise RunError(
                f"{len(self._replaced)} generators had to be replaced, more than the {self._max_replacements} allowed; "
                f"the last, with {waiting} requests unanswered: {reason}"
            )
        self._handles.append(self._launch())

    def _apply(self, update: WeightUpdate, probes: Sequence[Sequence[int]], timeout_s: float) -> list[Scores]:
        before, self._update = self._update, update
        calls = {handle: update.send(handle.actor, probes) for handle in self._live()}
        try:
            return self._gather(calls, what=f"the weights of version {update.version}", timeout_s=timeout_s)
        except (WeightSyncError, UserError):
            self._update = before
            raise

    def _gather(self, calls: dict[GeneratorHandle, Any], *, what: str, timeout_s: float) -> list[Any]:
        """The replies of ``calls``; generators that fail or do not answer in time are replaced."""
        deadline = time.monotonic() + timeout_s
        replies = []
        for handle, ref in calls.items():
            try:
                replies.append(get_result(ref, timeout_s=max(0.0, deadline - time.monotonic())))
            except ray.exceptions.GetTimeoutError:
                self._replace(handle, f"no answer about {what} in {timeout_s:.0f} s")
            except CorruptedEngineError as error:
                self._replace(handle, str(error))
            except (WeightSyncError, UserError):
                raise
            except _GENERATOR_ERRORS as error:
                self._replace(handle, first_line(error))
            else:
                handle.active_at = time.monotonic()
        return replies
