"""Which request goes to which generator, and what becomes of the requests of one that is lost.

    add ─▶ queue ─give─▶ generators with room ─▶ answered
             ▲                    │
             ├── take_from_slow ──┤ others have nothing to do
             ├──── hand_back ─────┤ its machine is taken away: nobody's fault
             └──── lost ──────────┘ any of them may be to blame ─▶ given up, when it can be no other

A generator gets only as many as it can work on, so that one that is slow holds few and one that joins finds some.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bolt_ray.actors.generator_handle import GeneratorHandle, InFlightRequest
from bolt_ray.core.records import GenerationRequest, UnscoredCompletion, UnscoredReason
from bolt_ray.engines.settings import SamplingSettings

NARROWED_BY = 8
"""After each loss a generator gets this many times fewer of the suspects."""


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Requests that go to one generator in one call, under their tickets."""

    handle: GeneratorHandle
    sampling: SamplingSettings
    requests: dict[int, GenerationRequest]


class RequestQueue:
    """See the module's picture.

    A request has a new ticket each time it is given to a generator, so that an answer to one that was taken back,
    or whose number is used again, is told from the answer that is waited for.

    Args:
        room: most requests a generator holds.
    """

    def __init__(self, *, room: int) -> None:
        self._room = room
        self._waiting: deque[InFlightRequest] = deque()
        self._tickets = itertools.count()

    def __len__(self) -> int:
        """Requests that no generator has."""
        return len(self._waiting)

    def add(self, requests: Sequence[GenerationRequest], sampling: SamplingSettings) -> None:
        """Queue new requests behind the others."""
        self._waiting.extend(InFlightRequest(request, sampling) for request in requests)

    def clear(self) -> None:
        """Forget them."""
        self._waiting.clear()

    def give(self, handles: Sequence[GeneratorHandle]) -> list[Batch]:
        """Put each request on the generator with the smallest load that has room for it, the oldest first."""
        batches: dict[tuple[GeneratorHandle, SamplingSettings], Batch] = {}
        stay: list[InFlightRequest] = []
        while self._waiting and (free := [handle for handle in handles if len(handle.in_flight) < self._room]):
            waiting = self._waiting.popleft()
            takers = [handle for handle in free if _takes(handle, waiting)]
            if not takers:
                stay.append(waiting)
                continue
            handle = min(takers, key=lambda taker: taker.load)
            ticket = next(self._tickets)
            handle.take(ticket, waiting)
            batch = batches.setdefault(
                (handle, waiting.sampling), Batch(handle=handle, sampling=waiting.sampling, requests={})
            )
            batch.requests[ticket] = replace(waiting.request, request_id=ticket)
        self._waiting.extendleft(reversed(stay))
        return list(batches.values())

    def take_from_slow(
        self, handles: Sequence[GeneratorHandle], *, idle: Sequence[GeneratorHandle]
    ) -> dict[GeneratorHandle, list[int]]:
        """Take back what each slow generator has, for those that have nothing to do.

        What it made of it so far is lost: only one that is slower by far is slow.

        Returns:
            The tickets taken back from each.
        """
        taken: dict[GeneratorHandle, list[int]] = {}
        for handle in handles:
            if handle.in_flight and any(handle.pace.slower_than(other.pace) for other in idle):
                taken[handle] = [*handle.in_flight]
                self.hand_back(handle)
        return taken

    def hand_back(self, handle: GeneratorHandle) -> None:
        """Take back what a generator has not answered; it comes first."""
        self._waiting.extendleft(reversed(handle.remove_all()))

    def lost(self, handle: GeneratorHandle) -> list[InFlightRequest]:
        """Take back what a generator had when it died or stalled; returns what is given up.

        Suspect are those that were with the most generators lost. One alone has ended at least its second; several
        are spread thinner until one is left.
        """
        held = handle.remove_all()
        most = max((request.losses for request in held), default=0)
        suspects = [request for request in held if request.losses == most]
        if most > 0 and len(suspects) == 1:
            held = [request for request in held if request is not suspects[0]]
            given_up = suspects
        else:
            given_up = []
        self._waiting.extendleft(
            replace(request, losses=request.losses + 1, suspects=len(suspects)) for request in reversed(held)
        )
        return given_up


def _takes(handle: GeneratorHandle, waiting: InFlightRequest) -> bool:
    """Whether a generator may have a request that others were lost over, beside those of the kind that it has."""
    if waiting.losses < 2:
        return True
    suspects = sum(request.losses >= 2 for request in handle.in_flight.values())
    return suspects < max(1, waiting.suspects // NARROWED_BY)


def given_up(held: InFlightRequest, reason: str, *, version: int) -> UnscoredCompletion:
    """The answer to a request over which generators were lost, the last for ``reason``: no tokens, and why."""
    losses = held.losses + 1
    log.warning("request %d is given up: %d generators were lost over it", held.request.request_id, losses)
    return UnscoredCompletion(
        request_id=held.request.request_id,
        token_ids=np.zeros(0, dtype=np.int32),
        logprobs=np.zeros(0, dtype=np.float32),
        text="",
        truncated=False,
        oldest_version=version,
        newest_version=version,
        reason=UnscoredReason(
            reward="generator", kind="lost", detail=f"{losses} generators were lost over it; the last: {reason}"
        ),
    )
