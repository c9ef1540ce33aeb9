"""The records of the requests in flight: what is asked for, what was read at dispatch, what a checkpoint keeps.

    PlannedRequest ─▶ DispatchedRequest (v̂, N_eff, version) ─┐
                                      outcome ───────────────┴▶ join ─▶ ScoredRollout | UnscoredRollout

A ``PlannedRequest`` is a draw's completion before the baseline is read; ``SavedRequest`` is the same in a checkpoint,
without the prompt, which resume reads again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bolt_ray.core.records import (
    BaselineReading,
    DrawnPrompt,
    GenerationRequest,
    Outcome,
    ScoredRollout,
    UnscoredCompletion,
    UnscoredRollout,
    fields_of,
)
from bolt_ray.training.completions import request_seed

Rollout = ScoredRollout | UnscoredRollout


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRequest:
    """A request in flight as a checkpoint keeps it: in no finished step, issued again on resume."""

    request_id: int
    group_id: int
    row: int
    sample_index: int
    num_samples: int
    seed: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """A completion to ask for."""

    request_id: int
    drawn: DrawnPrompt
    sample_index: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchedRequest:
    """A completion asked for, with what was read of the baseline at that moment."""

    planned: PlannedRequest
    v_hat: float
    n_eff: float
    last_version: int
    visits: int
    policy_version: int


def plan(drawn: DrawnPrompt, *, first_id: int, seed: int) -> list[PlannedRequest]:
    """The completions of one draw, numbered from ``first_id`` on; ``seed`` is the run's."""
    return [
        PlannedRequest(
            request_id=first_id + index, drawn=drawn, sample_index=index, seed=request_seed(seed, first_id + index)
        )
        for index in range(drawn.num_samples)
    ]


def plan_again(saved: Sequence[SavedRequest], drawn: Sequence[DrawnPrompt]) -> list[PlannedRequest]:
    """The requests of a checkpoint with their prompts; a group that other settings let go in part is whole with the
    rest."""
    sizes = Counter(request.group_id for request in saved)
    return [
        PlannedRequest(
            request_id=request.request_id,
            drawn=replace(prompt, num_samples=sizes[request.group_id]),
            sample_index=request.sample_index,
            seed=request.seed,
        )
        for request, prompt in zip(saved, drawn, strict=True)
    ]


def dispatched(planned: Sequence[PlannedRequest], known: BaselineReading, *, version: int) -> list[DispatchedRequest]:
    """Requests with what the baseline says of each one's prompt at ``version``."""
    return [
        DispatchedRequest(
            planned=request,
            v_hat=float(known.v_hat[i]),
            n_eff=float(known.n_eff[i]),
            last_version=int(known.last_version[i]),
            visits=int(known.visits[i]),
            policy_version=version,
        )
        for i, request in enumerate(planned)
    ]


def generation_request(planned: PlannedRequest) -> GenerationRequest:
    """What a generator is asked."""
    return GenerationRequest(
        request_id=planned.request_id, kind="train", token_ids=planned.drawn.token_ids, seed=planned.seed
    )


def saved_request(planned: PlannedRequest) -> SavedRequest:
    """What a checkpoint keeps of a request."""
    drawn = planned.drawn
    return SavedRequest(
        request_id=planned.request_id,
        group_id=drawn.group_id,
        row=drawn.prompt.row,
        sample_index=planned.sample_index,
        num_samples=drawn.num_samples,
        seed=planned.seed,
        weight=drawn.weight,
    )


def join(request: DispatchedRequest, outcome: Outcome) -> Rollout:
    """The outcome of a request with what was read when it was dispatched."""
    planned = request.planned
    drawn = planned.drawn
    at_dispatch: dict[str, Any] = {
        "prompt": drawn.prompt,
        "group_id": drawn.group_id,
        "sample_index": planned.sample_index,
        "v_hat": request.v_hat,
        "last_version": request.last_version,
        "visits": request.visits,
        "policy_version": request.policy_version,
        "draw_weight": drawn.weight,
    }
    if isinstance(outcome, UnscoredCompletion):
        return UnscoredRollout(**fields_of(outcome), **at_dispatch)
    return ScoredRollout(**fields_of(outcome), **at_dispatch, prompt_token_ids=drawn.token_ids, n_eff=request.n_eff)
