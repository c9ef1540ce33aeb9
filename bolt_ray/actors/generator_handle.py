"""One generator as the pool sees it: what it was given, what it owes, and how its replies are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import ray
from ray.exceptions import RayTaskError

from bolt_ray.core.errors import BoltRayError
from bolt_ray.core.records import Prompt, RolloutRequest
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.weight_buckets import WeightManifest

State = Literal["starting", "syncing", "live"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What brings any generator to ``version``: buckets of weights, or an adapter's directory."""

    version: int
    manifest: WeightManifest | None = None
    buckets: Sequence[Any] = ()
    adapter: str | None = None

    def send(self, actor: Any, probe: Sequence[Sequence[int]]) -> Any:
        if self.adapter is not None:
            return actor.update_adapter.remote(self.adapter, self.version, probe)
        return actor.update_weights.remote(self.manifest, list(self.buckets), self.version, probe)


@dataclass(slots=True)
class Job:
    """A request on its way."""

    request: RolloutRequest
    sampling: SamplingSettings

    @property
    def tokens(self) -> int:
        return len(self.request.drawn.token_ids) + self.sampling.max_new_tokens


@dataclass(slots=True, eq=False)
class Member:
    """A generator and what is known of it.

    Attributes:
        call: the reply being waited for: of ``start``, of an update, or of the long poll.
        submits: replies of ``submit`` not yet seen, with the ids of their requests.
        jobs: requests it was given and has not answered.
        update: the last update it was sent, None for the weights it started with.
        moved_at: when it last showed progress, started, or was idle.
    """

    actor: Any
    call: Any
    moved_at: float
    state: State = "starting"
    update: Update | None = None
    pid: int = 0
    progress: int = -1
    load: int = 0
    jobs: dict[int, Job] = field(default_factory=dict)
    submits: dict[Any, list[int]] = field(default_factory=dict)

    def drop(self, request_id: int) -> Job | None:
        """Take a request off this member."""
        job = self.jobs.pop(request_id, None)
        if job is not None:
            self.load -= job.tokens
        return job


def reply_of(ref: Any, *, timeout_s: float | None = None) -> Any:
    """``ray.get`` that raises our own errors as they were raised."""
    try:
        return ray.get(ref, timeout=timeout_s)
    except RayTaskError as error:
        if isinstance(error.cause, BoltRayError):
            raise error.cause from None
        raise


def bare(request: RolloutRequest) -> RolloutRequest:
    """The request without the prompt's text and metadata, which may be large and mean nothing to a generator."""
    drawn = request.drawn
    return replace(request, drawn=replace(drawn, prompt=Prompt(row=drawn.prompt.row, key="", prompt="")))


def first_line(error: BaseException) -> str:
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    return f"{type(error).__name__}: {next((line for line in lines if line), '')}"
