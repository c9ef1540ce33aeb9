"""One place in the pool of scorers, and the pool's only door to Ray."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.ray_results import get_result
from bolt_ray.actors.scorer_actor import RemoteScorer, ScoringRequest
from bolt_ray.core.budget import Budget

LONGEST_BACKOFF_S = 60.0

State = Literal["vacant", "placing", "starting", "idle", "busy"]
"""vacant: waits before its next try; placing: Ray looks for a node with room."""


class ScorerActors:
    """Makes scorer actors and talks to them.

    Args:
        arguments: of every scorer, beside its name.
        num_cpus, num_gpus: what each asks of the cluster.
    """

    def __init__(self, *, arguments: Mapping[str, Any], num_cpus: float, num_gpus: float) -> None:
        self._arguments = {**arguments, "gpus": num_gpus > 0}
        # Spread, so that a lost node takes few of them, and programs under test meet few of each other.
        self._options = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
        }

    def launch(self, name: str) -> Any:
        return RemoteScorer.options(**self._options).remote(name=name, **self._arguments)

    def call(self, actor: Any, method: str, *arguments: Any) -> Any:
        """Begin a call; what `wait` and `result` take."""
        return getattr(actor, method).remote(*arguments)

    def wait(self, calls: Sequence[Any], *, timeout_s: float) -> list[Any]:
        """Those of ``calls`` that have ended, as soon as one has."""
        if not calls:
            time.sleep(timeout_s)
            return []
        ended, _ = ray.wait(list(calls), num_returns=1, timeout=timeout_s)
        return ray.wait(list(calls), num_returns=len(calls), timeout=0)[0] if ended else []

    def result(self, call: Any) -> Any:
        """What a call that has ended gave.

        Raises:
            as `get_result`.
        """
        return get_result(call)

    def end(self, actor: Any) -> None:
        """Kill it; the kernel ends its reward processes with it."""
        ray.kill(actor, no_restart=True)

    def free(self) -> str:
        """What the cluster has left, for a message."""
        left = ray.available_resources()
        return f"{left.get('CPU', 0.0):g} CPU and {left.get('GPU', 0.0):g} GPU"


@dataclass(slots=True, kw_only=True)
class Batch:
    """Completions handed to one scorer together; ``tries`` counts the scorers lost to them."""

    requests: list[ScoringRequest]
    tries: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Seat:
    """A place in the pool and the scorer in it.

    Attributes:
        failures: its failed starts.
        launched: when its scorer was asked for.
        until: when the call under way is overdue, or a vacant seat is filled again.
        greeting: a call made right before that of a batch.
        process: of its scorer, once that is placed.
        leaving: its node is being drained, or there are too many seats: another has taken its place.
        why: what its last failed start said.
    """

    failures: Budget
    launched: float = 0.0
    until: float = 0.0
    state: State = "vacant"
    actor: Any = None
    call: Any = None
    greeting: Any = None
    batch: Batch | None = None
    process: ProcessInfo | None = None
    leaving: bool = False
    why: str = ""

    @property
    def is_live(self) -> bool:
        return self.state in ("idle", "busy")

    @property
    def is_hopeless(self) -> bool:
        """Whether its scorers fail to start, one after the other."""
        return self.failures.spent > self.failures.limit

    def vacate(self) -> Batch | None:
        """Give up its scorer, which is no more; what that was working on."""
        batch, self.batch = self.batch, None
        self.state, self.actor, self.call, self.greeting, self.process = "vacant", None, None, None, None
        return batch

    def failed_to_start(self, why: str, *, now: float) -> None:
        """Wait longer before each further try."""
        self.failures.spend()
        self.why = why
        self.until = now + min(LONGEST_BACKOFF_S, 2.0 ** (self.failures.spent - 1))
