"""The driver's side of generation: a pool of generators that outlives any one of them.

    submit(requests) ─▶ queue ─▶ generators with room ─▶ poll() ─▶ completions, each request answered once
    update_weights ───▶ every live generator, acknowledged ─▶ version

    a generator:  starting ──▶ syncing ──▶ live ──▶ (dies, stalls or cannot be updated: replaced)
                               brought to the current version, and its log-probs compared, before it gets requests

A lost generator's requests are issued again under the same ids. Generators that join later take the same path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from bolt_ray.actors.cluster_watch import ClusterWatch
from bolt_ray.actors.generator_fleet import GeneratorFleet, Resources
from bolt_ray.actors.generator_handle import LONG_POLL_S, Doubt, GeneratorHandle, Scores, WeightUpdate, no_doubt
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.ray_results import first_line
from bolt_ray.actors.ray_runtime import RayRuntime
from bolt_ray.actors.request_queue import RequestQueue, given_up
from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.core.errors import BoltRayError, UserError, WeightSyncError
from bolt_ray.core.records import Completion, GenerationRequest
from bolt_ray.engines.profiler import ProfileTarget
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.settings import EngineSettings
from bolt_ray.engines.vllm.statistics import EngineStatistics
from bolt_ray.engines.vllm.weights import CorruptedEngineError
from bolt_ray.engines.weight_buckets import WeightManifest

WAIT_S = 0.05

log = logging.getLogger(__name__)

_GENERATOR_ERRORS = (RayActorError, RayTaskError, BoltRayError, ValueError)
"""After these a generator is replaced, unless they say that the request or the weights are at fault."""


class GeneratorPool:
    """See the module's picture. Single-threaded: the pool moves only inside its methods."""

    def __init__(
        self,
        *,
        cluster: ClusterSettings,
        engine: EngineSettings,
        sampling: SamplingSettings,
        resources: Resources,
        policy_version: int = 0,
        startup_s: float,
        stall_s: float,
        runtime: RayRuntime | None = None,
        watch: ClusterWatch | None = None,
    ) -> None:
        """Launch ``cluster.num_generators`` and return; ``wait_ready`` waits for them.

        Args:
            policy_version: names the weights in ``engine.model_dir``.
            startup_s: longest start of a generator.
            stall_s: longest time a generator with work may show no progress.
        """
        self._engine = engine
        self._sampling = sampling
        self._first_version = policy_version
        self._runtime = runtime or RayRuntime()
        self._fleet = GeneratorFleet(
            cluster=cluster,
            resources=resources,
            startup_s=startup_s,
            stall_s=stall_s,
            runtime=self._runtime,
            watch=watch or ClusterWatch(),
        )
        most = engine.generator.max_num_seqs
        # Some wait inside the engine, so that a place that becomes free is taken at once.
        self._queue = RequestQueue(room=most + max(1, most // 4))
        self._statistics = EngineStatistics()
        self._update: WeightUpdate | None = None
        self._finished: list[Completion] = []
        self._fleet.fill()

    @property
    def version(self) -> int:
        """The policy version every live generator has acknowledged."""
        return self._first_version if self._update is None else self._update.version

    @property
    def outstanding(self) -> int:
        """Requests submitted and not yet returned by ``poll``."""
        return len(self._queue) + sum(len(handle.in_flight) for handle in self._fleet.handles) + len(self._finished)

    @property
    def progress(self) -> int:
        """Changes with every token of any generator."""
        return sum(handle.progress for handle in self._fleet.handles)

    @property
    def num_live(self) -> int:
        return len(self._fleet.live)

    @property
    def replacements(self) -> tuple[str, ...]:
        """Why each generator replaced so far was replaced."""
        return tuple(self._fleet.lost)

    @property
    def processes(self) -> tuple[ProcessInfo, ...]:
        """The generators that have a place."""
        return tuple(handle.process for handle in self._fleet.handles if handle.process is not None)

    def take_statistics(self) -> EngineStatistics:
        """What happened in the engines since the last call."""
        taken, self._statistics = self._statistics, EngineStatistics()
        return taken

    def metrics(self) -> dict[str, float]:
        """``cluster/*``."""
        return self._fleet.metrics()

    def profile(self, target: ProfileTarget | None) -> None:
        """Let every live generator record what it does, or end that; not waited for."""
        for handle in self._fleet.live:
            handle.actor.profile.remote(target)

    def wait_ready(self, *, idle: Callable[[], None] = lambda: None, say: Callable[[str], None] = log.warning) -> None:
        """Wait until the generators are live, after ``start_after_s`` only until ``min_generators`` are; ``say`` tells.

        Raises:
            UserError: raised by a generator that cannot start.
            StallError: they did not start in time.
            RunError: they failed too often.
        """
        began = self._runtime.now()
        while self.num_live < self._fleet.wanted:
            waited = self._runtime.now() - began
            if self._fleet.enough(waited):
                say(
                    f"Starting with {self.num_live} of {self._fleet.wanted} generators after {waited:.0f} s "
                    "(cluster.start_after_s); the others join when they are up"
                )
                return
            self._advance(WAIT_S)
            idle()

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingSettings | None = None) -> None:
        """Queue requests; ``sampling`` replaces the pool's own settings for these."""
        self._queue.add(requests, sampling or self._sampling)
        self._dispatch()

    def poll(self, timeout_s: float) -> list[Completion]:
        """The completions finished since the last call; waits up to ``timeout_s`` for something when nothing is.

        A request that ended several generators is answered by an ``UnscoredCompletion`` without tokens.

        Raises:
            DataError: a generator refused a prompt.
            RunError: too many generators had to be replaced.
            StallError: no generator is left, and none started in time.
        """
        deadline = self._runtime.now() + timeout_s
        self._advance(0.0)
        while not self._finished and self.outstanding and (left := deadline - self._runtime.now()) > 0:
            self._advance(left)
        finished, self._finished = self._finished, []
        return finished

    def reset(self, version: int) -> None:
        """Forget all that was asked, answered and sent; the next update brings every generator to its weights.

        For a training that goes back to a checkpoint of policy ``version``. Until that update no generator that has
        other weights gets a request, and none of those that joined stays: the learner may need their room.
        """
        self._queue.clear()
        self._finished = []
        self._update = None
        self._first_version = version
        self._statistics = EngineStatistics()
        for handle in self._fleet.handles:
            if handle.in_flight:
                handle.actor.abort.remote(list(handle.in_flight))
            handle.remove_all()
            handle.submits.clear()
        self._fleet.shrink()

    def update_weights(
        self,
        manifest: WeightManifest,
        buckets: Sequence[Any],
        version: int,
        *,
        probes: Sequence[Sequence[int]] = (),
        doubt: Doubt = no_doubt,
        timeout_s: float,
    ) -> list[Scores]:
        """Bring every live generator to ``version``; returns when all have acknowledged.

        Requests in flight go on under the new weights. A generator that fails is replaced and joins at ``version``;
        where no other is left, it is waited for.

        Args:
            buckets: object references, in the manifest's order; kept until the next update for late joiners.
            probes: token sequences each generator scores under the new weights.
            doubt: what is wrong with the scores of a generator that joins later; such a one gets no requests.

        Returns:
            For each generator that acknowledged, ``VLLMEngine.score`` of ``probes``; of one at least.

        Raises:
            WeightSyncError: the weights are not those of the model; no generator was changed.
            StallError: no generator is left, and none started in time.
        """
        update = WeightUpdate(version=version, manifest=manifest, buckets=buckets, probes=probes, doubt=doubt)
        return self._apply(update, timeout_s)

    def update_adapter(
        self,
        path: str,
        version: int,
        *,
        probes: Sequence[Sequence[int]] = (),
        doubt: Doubt = no_doubt,
        timeout_s: float,
    ) -> list[Scores]:
        """The same with a LoRA adapter's directory, which every generator's machine can read."""
        return self._apply(WeightUpdate(version=version, adapter=path, probes=probes, doubt=doubt), timeout_s)

    def score(self, sequences: Sequence[Sequence[int]], *, timeout_s: float) -> list[Scores]:
        """``VLLMEngine.score`` from every live generator."""
        calls = {handle: handle.actor.score.remote(sequences) for handle in self._fleet.live}
        found = _gather(calls, runtime=self._runtime, what="scores", timeout_s=timeout_s, failed=self._replace)
        return list(found.values())

    def close(self) -> None:
        """End every generator; unanswered requests are dropped."""
        self._fleet.close()
        self._queue.clear()
        self._update = None

    def _dispatch(self) -> None:
        """Give what waits to the live generators that have the current weights, and what the slow have to the idle."""
        takers = [h for h in self._fleet.handles if h.state == "live" and h.update is self._update]
        if not len(self._queue):
            idle = [handle for handle in takers if not handle.in_flight]
            for handle, tickets in self._queue.take_from_slow(takers, idle=idle).items():
                log.info("%d requests of a slow generator go to others", len(tickets))
                handle.actor.abort.remote(tickets)
            takers = idle
        for batch in self._queue.give(takers):
            handle = batch.handle
            if len(handle.in_flight) == len(batch.requests):
                handle.active_at = self._runtime.now()
            call = handle.actor.submit.remote(list(batch.requests.values()), batch.sampling)
            handle.submits[call] = list(batch.requests)

    def _advance(self, timeout_s: float) -> None:
        """Wait for any reply, act on all that are there, then replace the generators that stall."""
        self._fleet.look()
        self._fleet.drain(elsewhere=self._queue.hand_back)
        self._fleet.fill()
        if self.outstanding:
            # Before there is work, other processes of the run may still wait for their place.
            self._fleet.grow()
        calls = {ref: handle for handle in self._fleet.handles for ref in (handle.call, *handle.submits)}
        for ref in self._runtime.ready(list(calls), timeout_s=min(timeout_s, LONG_POLL_S)):
            handle = calls[ref]
            if handle in self._fleet.handles:
                self._react(handle, ref)
        for handle, why in self._fleet.late():
            self._replace(handle, why)
        self._dispatch()
        self._fleet.looked()

    def _react(self, handle: GeneratorHandle, ref: Any) -> None:
        """Act on one reply of a generator."""
        try:
            reply = self._runtime.result(ref)
        except _GENERATOR_ERRORS as error:
            if ref in handle.submits and isinstance(error, UserError):
                for ticket in handle.submits.pop(ref):
                    handle.remove(ticket)
                raise
            if not handle.generating and not self._fleet.live and _is_fatal(error, proven=self._fleet.proven):
                raise
            self._replace(handle, first_line(error))
            return
        if ref in handle.submits:
            del handle.submits[ref]
        elif handle.generating:
            self._finished += handle.collect(reply, now=self._runtime.now())
            self._statistics += reply.statistics
        else:
            self._bring_up(handle, reply)

    def _bring_up(self, handle: GeneratorHandle, reply: Any) -> None:
        """The next part of a generator's start; the last gives it requests, once it has the current weights."""
        handle.active_at = self._runtime.now()
        if handle.state == "placing":
            handle.state, handle.process = "starting", reply
            handle.call = handle.actor.start.remote(self._engine, self._sampling, self._first_version)
            return
        if handle.state == "syncing":
            assert handle.update is not None
            handle.scores = reply
            if (why := handle.update.doubt(reply)) is not None:
                self._replace(handle, why)
                return
        if self._update is None or handle.update is self._update:
            self._fleet.went_live(handle)
            handle.poll()
        else:
            handle.state, handle.update = "syncing", self._update
            handle.call = self._update.send(handle.actor)

    def _replace(self, handle: GeneratorHandle, reason: str) -> None:
        unanswered = len(handle.in_flight)
        if handle.state == "live":
            version = self.version
            self._finished += [given_up(request, reason, version=version) for request in self._queue.lost(handle)]
        else:
            self._queue.hand_back(handle)
        self._fleet.replace(handle, reason, unanswered=unanswered)

    def _apply(self, update: WeightUpdate, timeout_s: float) -> list[Scores]:
        before, self._update = self._update, update
        calls = {handle: update.send(handle.actor) for handle in self._fleet.live}
        what = f"the weights of version {update.version}"
        try:
            found = _gather(calls, runtime=self._runtime, what=what, timeout_s=timeout_s, failed=self._replace)
            for handle, scores in found.items():
                handle.update, handle.scores = update, scores
            while not (up_to_date := [handle for handle in self._fleet.live if handle.update is update]):
                self._advance(WAIT_S)
        except (WeightSyncError, UserError):
            self._update = before
            raise
        return [handle.scores for handle in up_to_date]


def _is_fatal(error: Exception, *, proven: bool) -> bool:
    """Whether another generator would fail the same way: it takes no such weights, or none was ever ``proven``."""
    if isinstance(error, WeightSyncError):
        return not isinstance(error, CorruptedEngineError)
    return isinstance(error, UserError) and not proven


def _gather(
    calls: dict[GeneratorHandle, Any],
    *,
    runtime: RayRuntime,
    what: str,
    timeout_s: float,
    failed: Callable[[GeneratorHandle, str], None],
) -> dict[GeneratorHandle, Any]:
    """The replies of ``calls``; ``failed`` hears of generators that fail or do not answer in time."""
    deadline = runtime.now() + timeout_s
    replies: dict[GeneratorHandle, Any] = {}
    for handle, ref in calls.items():
        left = max(0.0, deadline - runtime.now())
        try:
            replies[handle] = runtime.result(ref, timeout_s=left)
        except GetTimeoutError:
            failed(handle, f"no answer about {what} in {timeout_s:.0f} s")
        except _GENERATOR_ERRORS as error:
            if isinstance(error, UserError | WeightSyncError) and not isinstance(error, CorruptedEngineError):
                raise
            failed(handle, first_line(error))
        else:
            handle.active_at = runtime.now()
    return replies
