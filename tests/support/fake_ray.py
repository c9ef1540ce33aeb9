"""Generators without Ray and without engines, in a time that passes only where somebody waits.

FakeRay.ready(refs) ─▶ the clock moves on to the first answer ─▶ what a FakeGenerator makes of the time passed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ray.exceptions import GetTimeoutError, RayActorError

from bolt_ray.actors.generator_actor import PollResult
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.ray_runtime import RayRuntime
from bolt_ray.core.records import Completion, GenerationRequest
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.statistics import EngineStatistics

NEVER = math.inf


@dataclass(frozen=True, eq=False)
class Ref:
    """An answer of a generator: when it is there, and what it is or raises then."""

    owner: FakeGenerator
    at: Callable[[], float]
    value: Callable[[], Any]

    def done_at(self) -> float:
        return min(self.at(), self.owner.dies_at)


class FakeRay(RayRuntime):
    """A clock, and generators that answer by it; ``plans`` are how the first ones behave, by their number."""

    def __init__(self, *plans: Plan) -> None:
        self.clock = 1000.0
        self.plans = plans
        self.made: list[FakeGenerator] = []
        self.killed: list[str] = []
        self.rooms: list[FakeRoom] = []
        self.shown: list[str] = []

    def actor(self, name: str) -> FakeGenerator:
        """As `GeneratorResources.actor`."""
        number = len(self.made)
        plan = self.plans[number] if number < len(self.plans) else Plan()
        self.made.append(FakeGenerator(self, name, plan))
        return self.made[-1]

    def ask_room(self) -> FakeRoom:
        self.rooms.append(FakeRoom())
        return self.rooms[-1]

    def __str__(self) -> str:
        return "1 CPUs and 0 GPUs"

    def now(self) -> float:
        return self.clock

    def ready(self, refs: Sequence[Ref], *, timeout_s: float) -> list[Ref]:
        first = min([self.clock + timeout_s, *(ref.done_at() for ref in refs)])
        self.clock = max(self.clock, first)
        return [ref for ref in refs if ref.done_at() <= self.clock]

    def result(self, ref: Ref, *, timeout_s: float | None = None) -> Any:
        wait_s = ref.done_at() - self.clock
        if wait_s > (NEVER if timeout_s is None else timeout_s):
            self.clock += timeout_s or 0.0
            raise GetTimeoutError
        self.clock += max(0.0, wait_s)
        if ref.owner.dies_at <= self.clock and ref.owner.dies_at <= ref.at():
            raise RayActorError(error_msg=f"{ref.owner.name} died")
        return ref.value()

    def show(self, process: ProcessInfo | None, *, why: str) -> None:
        if process is not None:
            self.shown.append(f"{process.name}: {why}")

    def kill(self, actor: FakeGenerator) -> None:
        actor.dies_at = min(actor.dies_at, self.clock)
        self.killed.append(actor.name)


@dataclass
class FakeRoom:
    """Room that a test gives, or not."""

    there: bool = False
    released: bool = False

    def found(self) -> bool:
        return self.there

    def release(self) -> None:
        self.released = True


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a generator behaves.

    Attributes:
        placed_s, start_s, update_s: until it has a place, is up, has loaded an update.
        error: what its start raises.
        request_s: seconds of one completion, any number of them at a time.
        tokens_s: of each request, that a poll tells of.
        lives_s: after so long it dies by itself.
        node: where it runs.
        off: added to its log-probs of probes.
        poisons: prompts (first tokens) that end it at once.
    """

    placed_s: float = 0.0
    start_s: float = 5.0
    update_s: float = 1.0
    error: Exception | None = None
    request_s: float = 2.0
    tokens_s: float = 10.0
    lives_s: float = NEVER
    node: str = "node"
    off: float = 0.0
    poisons: frozenset[int] = frozenset()


@dataclass
class _Running:
    request: GenerationRequest
    sampling: SamplingSettings
    ends_at: float
    begun: int


class _Method:
    def __init__(self, call: Callable[..., Ref]) -> None:
        self.remote = call


@dataclass(eq=False)
class FakeGenerator:
    """What a pool calls of a generator actor. ``most`` is the largest number of requests it ever held."""

    ray: FakeRay
    name: str
    plan: Plan
    version: int = 0
    most: int = 0
    aborted: int = 0
    seen: list[int] = field(default_factory=list)
    running: dict[int, _Running] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.born = self._polled_at = self.ray.clock
        self.tokens = 0.0
        self.dies_at = self.born + self.plan.lives_s
        calls = (self.hello, self.start, self.submit, self.poll, self.abort, self.update_weights, self.update_adapter)
        for call in (*calls, self.score, self.profile):
            setattr(self, call.__name__, _Method(call))

    def hello(self) -> Ref:
        return self._after(self.plan.placed_s, self._info)

    def start(self, engine: Any, sampling: SamplingSettings, policy_version: int) -> Ref:
        self.version = policy_version

        def started() -> ProcessInfo:
            if self.plan.error is not None:
                raise self.plan.error
            return self._info()

        return self._after(self.plan.start_s, started)

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingSettings) -> Ref:
        for request in requests:
            self.seen.append(int(request.token_ids[0]))
            if int(request.token_ids[0]) in self.plan.poisons:
                self.dies_at = min(self.dies_at, self.ray.clock + 0.5)
            ends_at = self.ray.clock + self.plan.request_s
            self.running[request.request_id] = _Running(request, sampling, ends_at, self.version)
        self.most = max(self.most, len(self.running))
        return self._after(0.0, lambda: None)

    def abort(self, tickets: Sequence[int]) -> Ref:
        self.aborted += sum(self.running.pop(ticket, None) is not None for ticket in tickets)
        return self._after(0.0, lambda: None)

    def poll(self, timeout_s: float) -> Ref:
        limit = self.ray.clock + timeout_s
        return Ref(self, lambda: min([limit, *(each.ends_at for each in self.running.values())]), self._poll)

    def update_weights(self, manifest: Any, buckets: Sequence[Any], version: int, probes: Sequence[Any]) -> Ref:
        def update() -> list[Any]:
            self.version = version
            return self._scores(probes)

        return self._after(self.plan.update_s, update)

    def update_adapter(self, path: str, version: int, probes: Sequence[Any]) -> Ref:
        return self.update_weights(path, (), version, probes)

    def score(self, sequences: Sequence[Any]) -> Ref:
        return self._after(0.0, lambda: self._scores(sequences))

    def profile(self, target: Any) -> Ref:
        return self._after(0.0, lambda: None)

    def _after(self, seconds: float, value: Callable[[], Any]) -> Ref:
        at = self.ray.clock + seconds
        return Ref(self, lambda: at, value)

    def _scores(self, probes: Sequence[Any]) -> list[Any]:
        return [np.full(len(probe) - 1, self.plan.off - self.version, dtype=np.float32) for probe in probes]

    def _info(self) -> ProcessInfo:
        return ProcessInfo(
            role="generator",
            name=self.name,
            node="machine",
            pid=1,
            host_bytes=1,
            gpu_bytes=None,
            node_fraction=0.5,
            node_id=self.plan.node,
        )

    def _poll(self) -> PollResult:
        self.tokens += self.plan.tokens_s * len(self.running) * (self.ray.clock - self._polled_at)
        self._polled_at = self.ray.clock
        done = [ticket for ticket, each in self.running.items() if each.ends_at <= self.ray.clock]
        completions = [self._completion(ticket, self.running.pop(ticket)) for ticket in done]
        stuck = bool(self.running) and all(each.ends_at == NEVER for each in self.running.values())
        return PollResult(
            completions=completions,
            progress=0 if stuck else int(self.tokens),
            statistics=EngineStatistics(generated_tokens=len(done)),
            process=self._info(),
        )

    def _completion(self, ticket: int, done: _Running) -> Completion:
        """The text tells prompt, seed and length limit."""
        request = done.request
        return Completion(
            request_id=ticket,
            token_ids=np.array([7, 8], dtype=np.int32),
            logprobs=np.zeros(2, dtype=np.float32),
            text=f"{int(request.token_ids[0])}:{request.seed}:{done.sampling.max_new_tokens}",
            truncated=False,
            oldest_version=done.begun,
            newest_version=self.version,
        )
