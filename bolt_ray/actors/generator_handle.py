"""One generator as the pool sees it: its actor, its requests in flight, and the calls it has not answered yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bolt_ray.actors.generator_actor import PollResult
from bolt_ray.actors.pace import Pace
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.core.records import Completion, GenerationRequest
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.weight_buckets import WeightManifest

LONG_POLL_S = 1.0

State = Literal["placing", "starting", "syncing", "live", "draining"]

Scores = list[NDArray[np.float32]]
"""Log-probs of each of several sequences, as `VLLMEngine.score` gives them."""

Doubt = Callable[[Scores], str | None]
"""What is wrong with a generator's log-probs of the probes; None if nothing is."""


def no_doubt(scores: Scores) -> str | None:
    """Where there is nothing to compare with."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightUpdate:
    """What brings any generator to ``version``: buckets of weights, or an adapter's directory.

    Attributes:
        probes: token sequences each generator scores under the new weights.
        doubt: of a generator that gets the update later than the others.
    """

    version: int
    manifest: WeightManifest | None = None
    buckets: Sequence[Any] = ()
    adapter: str | None = None
    probes: Sequence[Sequence[int]] = ()
    doubt: Doubt = no_doubt

    def send(self, actor: Any) -> Any:
        """Start the update on one generator; a reference to its log-probs of the probes."""
        if self.adapter is not None:
            return actor.update_adapter.remote(self.adapter, self.version, self.probes)
        return actor.update_weights.remote(self.manifest, list(self.buckets), self.version, self.probes)


@dataclass(frozen=True, slots=True)
class InFlightRequest:
    """A request that has not been answered, with its sampling.

    Attributes:
        losses: generators that were lost while they worked on it.
        suspects: how many requests were as suspect as this one when the last of them was lost.
    """

    request: GenerationRequest
    sampling: SamplingSettings
    losses: int = 0
    suspects: int = 1

    @property
    def num_tokens(self) -> int:
        """The most tokens it can come to, prompt and completion."""
        return len(self.request.token_ids) + self.sampling.max_new_tokens


@dataclass(slots=True, eq=False)
class GeneratorHandle:
    """A generator and its state.

    Attributes:
        call: the call being waited for: that it has a place, ``start``, an update, or the long poll.
        submits: calls of ``submit`` not yet acknowledged, with the tickets of their requests.
        in_flight: requests it was given and has not answered, by ticket.
        update: the last update it has or was sent, None for the weights it started with.
        scores: its log-probs of that update's probes.
        active_at: when it last showed progress, changed its state, or was idle.
        finish_by: when a draining one has to hand back what it has not finished.
        load: tokens its requests in flight can come to.
        process: what it said of itself last.
        pace: how fast it is.
    """

    actor: Any
    call: Any
    active_at: float
    state: State = "placing"
    update: WeightUpdate | None = None
    scores: Scores = field(default_factory=list)
    progress: int = -1
    finish_by: float = 0.0
    load: int = 0
    process: ProcessInfo | None = None
    pace: Pace = field(default_factory=Pace)
    in_flight: dict[int, InFlightRequest] = field(default_factory=dict)
    submits: dict[Any, list[int]] = field(default_factory=dict)

    @property
    def generating(self) -> bool:
        """Whether its engine runs."""
        return self.state in ("live", "draining")

    def take(self, ticket: int, request: InFlightRequest) -> None:
        """Put a request on this generator."""
        self.in_flight[ticket] = request
        self.load += request.num_tokens

    def remove(self, ticket: int) -> InFlightRequest | None:
        """Take a request off this generator; None if it is not in flight here."""
        request = self.in_flight.pop(ticket, None)
        if request is not None:
            self.load -= request.num_tokens
        return request

    def collect(self, result: PollResult, *, now: float) -> list[Completion]:
        """What a poll brought, under the requests' own ids, without what was taken back meanwhile; asks again."""
        completions = [
            replace(completion, request_id=answered.request.request_id)
            for completion in result.completions
            if (answered := self.remove(completion.request_id)) is not None
        ]
        self.process = result.process
        if result.progress != self.progress or not self.in_flight:
            self.progress, self.active_at = result.progress, now
        self.pace.see(now, tokens=result.progress, requests=len(self.in_flight))
        self.poll()
        return completions

    def poll(self) -> None:
        """Ask for what is finished."""
        self.call = self.actor.poll.remote(LONG_POLL_S)

    def remove_all(self) -> list[InFlightRequest]:
        """Take all requests off it, the oldest first."""
        return [request for ticket in [*self.in_flight] if (request := self.remove(ticket)) is not None]
