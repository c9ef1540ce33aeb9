"""The rollout loop: prompts out, one optimizer step's completions back.

    prompt stream ──draws──▶ dispatch (v̂, N_eff, version read here) ──▶ CompletionService
                                 ▲ capacity      │ in-flight table             │ scored, unscored
                                 │               └────────────┬────────────────┘
                                 │                            ▼ joined by request id
        release(version) ◀── learner ◀── next_step(): R completions ◀── ready groups

One loop serves every staleness. At most ``(max_staleness + 1) · rollouts_per_step`` completions are dispatched and
not yet trained; those being trained count until ``release`` announces the new version. With ``max_staleness`` 0
nothing is therefore dispatched between the closing of a step and the next version; with n ≥ 1 generation runs on
while the learner works. Slow completions carry over to a later step: dropping them would favor short answers. Only
what has become older than the bound is dropped from training, counted, and still an outcome for the baseline.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bolt_ray.core.errors import StallError
from bolt_ray.core.records import (
    BaselineReading,
    DrawnPrompt,
    DroppedRollout,
    DropReason,
    GenerationRequest,
    Outcome,
    ScoredRollout,
    UnscoredRollout,
)
from bolt_ray.training.completions import POLL_S, CompletionService, request_seed
from bolt_ray.training.in_flight import DispatchedRequest, PlannedRequest, Rollout, SavedRequest, join, saved_request
from bolt_ray.training.settings import RolloutSettings


class BaselineReader(Protocol):
    """Reads prompts by their keys, as of a policy version."""

    def read(self, keys: Sequence[str], version: int) -> BaselineReading: ...


Group = list[Rollout]
"""Completions that are trained together: one, or all of a draw where the advantage compares them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRollouts:
    """The completions of one optimizer step.

    Attributes:
        trainable: scored completions to train on, in the order of their requests.
        unscored: without a reward; neither trained nor outcomes for the baseline.
        baseline_only: scored but not trained (stale, or a group without variance); the baseline still learns.
        dropped: every completion left out of training, with its reason.
        refilled: completions generated in place of groups without variance.
    """

    trainable: tuple[ScoredRollout, ...]
    unscored: tuple[UnscoredRollout, ...]
    baseline_only: tuple[ScoredRollout, ...]
    dropped: tuple[DroppedRollout, ...]
    refilled: int


class RolloutLoop:
    """See the module's picture. Single-threaded: ``pump`` is called wherever the driver would otherwise wait."""

    def __init__(
        self,
        *,
        service: CompletionService,
        prompts: Iterator[DrawnPrompt],
        baseline: BaselineReader,
        settings: RolloutSettings,
        keep_groups: bool,
        seed: int,
        stall_s: float,
        version: int = 0,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """``check`` is called while ``next_step`` waits and may raise, for example on an interrupt: everything
        dispatched is still in the in-flight table then."""
        self._service = service
        self._prompts = prompts
        self._baseline = baseline
        self._rollouts_per_step = settings.rollouts_per_step
        self._max_staleness = settings.max_staleness
        self._keep_groups = keep_groups
        self._refill_rounds = settings.dynamic_sampling_rounds if settings.dynamic_sampling else 0
        self._seed = seed
        self._stall_s = stall_s
        self._check = check
        self._version = version
        self._next_request_id = 0
        self._reissue: deque[PlannedRequest] = deque()
        self._in_flight: dict[int, DispatchedRequest] = {}
        self._incomplete: dict[int, Group] = {}
        self._ready: list[Group] = []
        self._in_training: frozenset[int] = frozenset()
        self._left_out = 0

    @property
    def version(self) -> int:
        return self._version

    def release(self, version: int) -> None:
        """The generators have acknowledged ``version``: the step's completions are no longer in flight."""
        self._version = version
        for request_id in self._in_training:
            del self._in_flight[request_id]
        self._in_training = frozenset()

    def put_back(self) -> None:
        """The completions of the step under way are not trained: they are made again, with the same seeds."""
        self._reissue.extendleft(
            self._in_flight.pop(request_id).planned for request_id in sorted(self._in_training, reverse=True)
        )
        self._in_training = frozenset()

    def pump(self, timeout_s: float = 0.0) -> None:
        """Dispatch up to the capacity and move what is done."""
        self._dispatch()
        self._service.pump(timeout_s)
        for outcome in self._service.poll("train"):
            self._arrive(outcome)

    def next_step(self) -> StepRollouts:
        """Block until a step is full and return it.

        Raises:
            StallError: nothing arrived for ``stall_s`` although completions are outstanding.
        """
        kept: Group = []
        stale: list[Group] = []
        flat: list[Group] = []
        refill_budget = self._refill_rounds * self._rollouts_per_step
        last_arrival, seen = time.monotonic(), -1
        while len(kept) < self._rollouts_per_step:
            for group in self._pop_ready():
                if self._is_stale(group):
                    stale.append(group)
                    self._left_out += len(group)
                elif refill_budget >= len(group) and _without_variance(group):
                    refill_budget -= len(group)
                    flat.append(group)
                    self._left_out += len(group)
                elif len(kept) < self._rollouts_per_step:
                    kept.extend(group)
                else:
                    self._ready.append(group)
            if len(kept) >= self._rollouts_per_step:
                break
            self._check()
            self.pump(POLL_S)
            progress = self._service.generated_tokens + len(self._ready) - self._service.scoring
            if progress != seen:
                last_arrival, seen = time.monotonic(), progress
            elif time.monotonic() - last_arrival > self._stall_s:
                raise StallError(
                    f"no completion arrived for {self._stall_s:.0f} s: {self._service.generating} are being "
                    f"generated, {self._service.scoring} scored, {len(kept)} of {self._rollouts_per_step} are ready "
                    f"(deadlines.generation_s sets this limit)"
                )
        return self._close_step(kept, stale=stale, flat=flat)

    def state_dict(self) -> dict[str, Any]:
        """The requests of no finished step, and the request counter. Call it between steps."""
        unfinished = [*(request.planned for request in self._in_flight.values()), *self._reissue]
        saved = sorted((saved_request(planned) for planned in unfinished), key=lambda request: request.request_id)
        return {"next_request_id": self._next_request_id, "in_flight": [asdict(request) for request in saved]}

    def load_state_dict(
        self, state: dict[str, Any], *, redraw: Callable[[Sequence[SavedRequest]], Sequence[DrawnPrompt]]
    ) -> None:
        """Continue from ``state``; ``redraw`` reads the prompts again, one per request."""
        saved = [SavedRequest(**request) for request in state["in_flight"]]
        self._next_request_id = int(state["next_request_id"])
        self._reissue = deque(
            PlannedRequest(
                request_id=request.request_id, drawn=drawn, sample_index=request.sample_index, seed=request.seed
            )
            for request, drawn in zip(saved, redraw(saved), strict=True)
        )

    def _capacity(self) -> int:
        """Completions that may be dispatched now."""
        return (self._max_staleness + 1) * self._rollouts_per_step - len(self._in_flight) + self._left_out

    def _dispatch(self) -> None:
        """Fill the capacity: first the requests issued again after a resume, then new draws."""
        capacity = self._capacity()
        planned: list[PlannedRequest] = []
        while self._reissue and len(planned) < capacity:
            planned.append(self._reissue.popleft())
        while not self._reissue and len(planned) < capacity:
            planned += self._plan(next(self._prompts))
        if not planned:
            return
        prompts = [request.drawn.prompt for request in planned]
        known = self._baseline.read([prompt.key for prompt in prompts], self._version)
        for i, request in enumerate(planned):
            self._in_flight[request.request_id] = DispatchedRequest(
                planned=request,
                v_hat=float(known.v_hat[i]),
                n_eff=float(known.n_eff[i]),
                last_version=int(known.last_version[i]),
                visits=int(known.visits[i]),
                policy_version=self._version,
            )
        self._service.submit(
            [
                GenerationRequest(
                    request_id=request.request_id,
                    kind="train",
                    token_ids=request.drawn.token_ids,
                    seed=request.seed,
                )
                for request in planned
            ],
            prompts,
        )

    def _plan(self, drawn: DrawnPrompt) -> list[PlannedRequest]:
        """The completions of one draw, numbered on."""
        first = self._next_request_id
        self._next_request_id += drawn.num_samples
        return [
            PlannedRequest(
                request_id=first + index, drawn=drawn, sample_index=index, seed=request_seed(self._seed, first + index)
            )
            for index in range(drawn.num_samples)
        ]

    def _arrive(self, outcome: Outcome) -> None:
        """Join an outcome with its request; a group is ready when it is whole."""
        request = self._in_flight[outcome.request_id]
        rollout, drawn = join(request, outcome), request.planned.drawn
        if not self._keep_groups or drawn.num_samples == 1:
            self._ready.append([rollout])
            return
        group = self._incomplete.setdefault(drawn.group_id, [])
        group.append(rollout)
        if len(group) == drawn.num_samples:
            self._ready.append(self._incomplete.pop(drawn.group_id))

    def _pop_ready(self) -> list[Group]:
        """All ready groups, oldest first, so that none waits until it is stale."""
        groups = sorted(self._ready, key=lambda group: min(rollout.request_id for rollout in group))
        self._ready = []
        return groups

    def _is_stale(self, group: Group) -> bool:
        return any(self._version - rollout.oldest_version > self._max_staleness for rollout in group)

    def _close_step(self, kept: Group, *, stale: list[Group], flat: list[Group]) -> StepRollouts:
        """Only now do the completions left out leave the in-flight table: an interrupt before loses nothing."""
        kept.sort(key=lambda rollout: rollout.request_id)
        self._in_training = frozenset(rollout.request_id for rollout in kept)
        unscored = tuple(rollout for rollout in kept if isinstance(rollout, UnscoredRollout))
        left_out = [rollout for group in (*stale, *flat) for rollout in group]
        for rollout in left_out:
            del self._in_flight[rollout.request_id]
        self._left_out = 0
        return StepRollouts(
            trainable=tuple(rollout for rollout in kept if isinstance(rollout, ScoredRollout)),
            unscored=unscored,
            baseline_only=tuple(rollout for rollout in left_out if isinstance(rollout, ScoredRollout)),
            dropped=(
                *_dropped((rollout for group in stale for rollout in group), "stale"),
                *_dropped((rollout for group in flat for rollout in group), "zero_variance"),
                *_dropped(unscored, "unscored"),
            ),
            refilled=sum(len(group) for group in flat),
        )


def _dropped(rollouts: Iterable[Rollout], reason: DropReason) -> Iterator[DroppedRollout]:
    return (DroppedRollout(request_id=rollout.request_id, reason=reason) for rollout in rollouts)


def _without_variance(group: Group) -> bool:
    """As DAPO filters (arXiv 2503.14476): by what the answers are worth, without shaping such as a length penalty."""
    rewards = [rollout.tracker_reward for rollout in group if isinstance(rollout, ScoredRollout)]
    return len(group) > 1 and len(rewards) > 0 and max(rewards) == min(rewards)
