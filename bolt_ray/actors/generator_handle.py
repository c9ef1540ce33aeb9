"""One generator as the pool sees it: its actor, its requests in flight, and the calls it has not answered yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.core.records import GenerationRequest
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.weight_buckets import WeightManifest

State = Literal["starting", "syncing", "live"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightUpdate:
    """What brings any generator to ``version``: buckets of weights, or an adapter's directory."""

    version: int
    manifest: WeightManifest | None = None
    buckets: Sequence[Any] = ()
    adapter: str | None = None

    def send(self, actor: Any, probes: Sequence[Sequence[int]]) -> Any:
        """Start the update on one generator; a reference to its log-probs of ``probes``."""
        if self.adapter is not None:
            return actor.update_adapter.remote(self.adapter, self.version, probes)
        return actor.update_weights.remote(self.manifest, list(self.buckets), self.version, probes)


@dataclass(frozen=True, slots=True)
class InFlightRequest:
    """A request that has not been answered, with its sampling."""

    request: GenerationRequest
    sampling: SamplingSettings

    @property
    def num_tokens(self) -> int:
        """The most tokens it can come to, prompt and completion."""
        return len(self.request.token_ids) + self.sampling.max_new_tokens


@dataclass(slots=True, eq=False)
class GeneratorHandle:
    """A generator and its state.

    Attributes:
        call: the call being waited for: ``start``, an update, or the long poll.
        submits: calls of ``submit`` not yet acknowledged, with the ids of their requests.
        in_flight: requests it was given and has not answered, by id.
        update: the last update it was sent, None for the weights it started with.
        active_at: when it last showed progress, started, or was idle.
        load: tokens its requests in flight can come to.
        process: what it said of itself last.
    """

    actor: Any
    call: Any
    active_at: float
    state: State = "starting"
    update: WeightUpdate | None = None
    progress: int = -1
    load: int = 0
    process: ProcessInfo | None = None
    in_flight: dict[int, InFlightRequest] = field(default_factory=dict)
    submits: dict[Any, list[int]] = field(default_factory=dict)

    def remove(self, request_id: int) -> InFlightRequest | None:
        """Take a request off this generator; None if it is not in flight here."""
        request = self.in_flight.pop(request_id, None)
        if request is not None:
            self.load -= request.num_tokens
        return request
