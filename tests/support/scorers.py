"""Scorer actors in memory, on nodes with so much room, under a clock that moves only when something is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import ActorDiedError

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.scorer_actor import ScoredBatch
from bolt_ray.actors.scorer_seat import ScorerActors
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.reward_set import RewardResult

ONE = RewardResult(reward=1.0, tracker_reward=1.0)


@dataclass(eq=False)
class FakeScorer:
    """An actor: when it was launched, where it is, whether it lives, whether it keeps its answers back, what it was
    asked to score and in how many batches."""

    name: str
    launched: float
    node: str | None = None
    alive: bool = True
    held: bool = False
    asked: list[str] = field(default_factory=list)
    batches: int = 0


@dataclass(eq=False)
class FakeCall:
    """A call of an actor; ``answer`` once there is one."""

    actor: FakeScorer
    method: str
    inputs: Sequence[RewardInput] = ()
    answer: Any = None


class FakeScorerActors(ScorerActors):
    """Attributes:
    room: how many scorers each node has room for.
    broken: what a start raises.
    deadly: the completion that kills its scorer.
    launched: every actor so far.
    """

    def __init__(self, **room: int) -> None:
        self.room = dict(room)
        self.broken: Exception | None = None
        self.deadly: str | None = None
        self.launched: list[FakeScorer] = []
        self.time = 0.0

    def now(self) -> float:
        return self.time

    @property
    def living(self) -> list[FakeScorer]:
        """Those that have a node."""
        return [actor for actor in self.launched if actor.alive and actor.node is not None]

    def lose(self, node: str) -> None:
        """The node is gone, with everything on it."""
        del self.room[node]
        for actor in self.launched:
            actor.alive = actor.alive and actor.node != node

    def launch(self, name: str) -> FakeScorer:
        self.launched.append(FakeScorer(name, self.time))
        return self.launched[-1]

    def call(self, actor: FakeScorer, method: str, *arguments: Any) -> FakeCall:
        call = FakeCall(actor, method, *arguments)
        if method != "score":
            self._serve(call)
        return call

    def wait(self, calls: Sequence[FakeCall], *, timeout_s: float) -> list[FakeCall]:
        for call in calls:
            self._serve(call)
        ended = [call for call in calls if call.answer is not None or not call.actor.alive]
        self.time += 0.0 if ended else timeout_s
        return ended

    def result(self, call: FakeCall) -> Any:
        if call.answer is None:
            raise ActorDiedError
        if isinstance(call.answer, Exception):
            raise call.answer
        return call.answer

    def end(self, actor: FakeScorer) -> None:
        actor.alive = False

    def free(self) -> str:
        return "0 CPU and 0 GPU"

    def _serve(self, call: FakeCall) -> None:
        actor = call.actor
        if actor.alive and actor.node is None:
            taken = [other.node for other in self.living]
            actor.node = next((node for node, most in self.room.items() if taken.count(node) < most), None)
        if not actor.alive or actor.node is None or call.answer is not None:
            return
        if call.method == "start":
            call.answer = self.broken or "started"
        elif call.method != "score":
            call.answer = _process(actor)
        elif not actor.held:
            actor.asked += [item.completion for item in call.inputs]
            actor.batches += 1
            if self.deadly in actor.asked:
                actor.alive = False
            else:
                call.answer = ScoredBatch(results=[ONE] * len(call.inputs), process=_process(actor))


def _process(actor: FakeScorer) -> ProcessInfo:
    return ProcessInfo(
        role="scorer",
        name=actor.name,
        node=str(actor.node),
        pid=1,
        host_bytes=1,
        gpu_bytes=None,
        node_fraction=0.0,
        node_id=str(actor.node),
    )
