"""The records of the requests in flight: what is asked for, what was read at dispatch, what a checkpoint keeps.

    PlannedRequest ─▶ DispatchedRequest (v̂, N_eff, version) ─┐
                                      outcome ───────────────┴▶ join ─▶ ScoredRollout | UnscoredRollout

A ``PlannedRequest`` is a draw's completion before the baseline is read; ``SavedRequest`` is the same in a checkpoint,
without the prompt, which resume reads again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bolt_ray.core.records import DrawnPrompt, Outcome, ScoredRollout, UnscoredCompletion, UnscoredRollout, fields_of

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
