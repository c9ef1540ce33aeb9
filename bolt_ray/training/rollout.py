"""The rollout loop: prompts out, one optimizer step's completions back.

    prompt stream ──draws──▶ dispatch (v̂, N_eff, version read here) ──▶ CompletionService
                                 ▲ capacity      │ in-flight table             │ scored, unscored
                                 │               └────────────┬────────────────┘
                                 │                            ▼ joined by request id
        release(version) ◀── learner ◀── next_step(): R completions ◀── ready groups

One loop serves every staleness. At most ``(max_staleness + 1) · rollouts_per_step`` completions are dispatched and
not yet trained; those being trained count until ``release`` announces the new version. With ``max_staleness`` 0
nothing is therefore dispatched between the closing of a step and the next version; with n ≥ 1 generation runs on
while the learner works. Slow completions carry over to a later step: dropping them would favor short answers; with 0
a step therefore takes all that was dispatched for it, also where whole groups come to more than it needs. Only what has
become older than the bound is dropped from training, counted, and still an outcome for the baseline.

A step's completions leave the table of requests in flight only when the step is over, together: whatever ends a step
before, its requests are all still there to be issued again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bolt_ray.core.records import (
    BaselineReading,
    DrawnPrompt,
    DroppedRollout,
    DropReason,
    Outcome,
    ScoredRollout,
    UnscoredRollout,
)
from bolt_ray.training.completions import POLL_S, CompletionService
from bolt_ray.training.in_flight import (
    DispatchedRequest,
    PlannedRequest,
    Rollout,
    SavedRequest,
    dispatched,
    generation_request,
    join,
    plan,
    plan_again,
    saved_request,
)
from bolt_ray.training.ledger import Ledger
from bolt_ray.training.settings import RolloutSettings
from bolt_ray.training.stall_watch import StallWatch


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
        self._ledger = Ledger()
        self._planned: deque[PlannedRequest] = deque()
        self._in_flight: dict[int, DispatchedRequest] = {}
        self._incomplete: dict[int, Group] = {}
        self._ready: list[Group] = []
        # Of the step under way: what leaves the table when it is over, with the reason where it is not trained.
        self._closing: dict[int, DropReason | None] = {}
        self._left_out = 0

    @property
    def version(self) -> int:
        return self._version

    def release(self, version: int) -> None:
        """The generators have acknowledged ``version``: the step is over, its completions are no longer in flight.

        Raises:
            RunError: a completion was lost or counted twice.
        """
        self._version = version
        for request_id, reason in self._closing.items():
            del self._in_flight[request_id]
            self._ledger.end(reason)
        self._closing = {}
        self._left_out = 0
        self._ledger.check(self._num_in_flight)
        arrived = sum(len(group) for group in (*self._ready, *self._incomplete.values()))
        self._service.check(expected=len(self._in_flight) - arrived)

    def leave_out(self, request_ids: Iterable[int], reason: DropReason) -> None:
        """Some completions of the step under way are not trained after all."""
        for request_id in request_ids:
            self._closing[request_id] = self._closing[request_id] or reason

    def metrics(self) -> dict[str, float]:
        """``rollout/*`` of all completions so far."""
        return self._ledger.metrics(self._num_in_flight)

    @property
    def account(self) -> str:
        """What became of all completions so far, in words."""
        return self._ledger.account(self._num_in_flight)

    def put_back(self) -> None:
        """The completions of the step under way are not trained: they are made again, with the same seeds."""
        self._planned.extendleft(self._in_flight.pop(number).planned for number in sorted(self._closing, reverse=True))
        self._closing = {}
        self._left_out = 0

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
        watch = StallWatch(self._service, stall_s=self._stall_s)
        while True:
            for group in self._pop_ready():
                if self._is_stale(group):
                    stale.append(group)
                    self._left_out += len(group)
                elif refill_budget >= len(group) and _without_variance(group):
                    refill_budget -= len(group)
                    flat.append(group)
                    self._left_out += len(group)
                elif len(kept) < self._rollouts_per_step or self._max_staleness == 0:
                    kept.extend(group)
                else:
                    self._ready.append(group)
            # With staleness 0 what comes later than its step comes too late.
            awaited = len(self._in_flight) - len(kept) - self._left_out if self._max_staleness == 0 else 0
            if len(kept) >= self._rollouts_per_step and awaited <= 0:
                return self._close_step(kept, stale=stale, flat=flat)
            self._check()
            self.pump(POLL_S)
            ready = len(kept) + sum(len(group) for group in self._ready)
            watch.look(arrived=ready, what=f"completions of a step, {ready:,} of {self._rollouts_per_step:,} are ready")

    def state_dict(self) -> dict[str, Any]:
        """The requests of no finished step, the request counter and the ledger, at any time."""
        unfinished = [*(request.planned for request in self._in_flight.values()), *self._planned]
        saved = sorted((saved_request(planned) for planned in unfinished), key=lambda request: request.request_id)
        return {
            "next_request_id": self._next_request_id,
            "in_flight": [asdict(request) for request in saved],
            "ledger": self._ledger.state_dict(),
        }

    def load_state_dict(
        self, state: dict[str, Any], *, redraw: Callable[[Sequence[SavedRequest]], Sequence[DrawnPrompt]]
    ) -> None:
        """Continue from ``state``; ``redraw`` reads the prompts again, one per request.

        Raises:
            RunError: its ledger does not agree with its requests.
        """
        saved = [SavedRequest(**request) for request in state["in_flight"]]
        # Checkpoints of earlier versions have no ledger: it begins with them.
        self._ledger = Ledger(**state.get("ledger", {"dispatched": len(saved)}))
        self._next_request_id = int(state["next_request_id"])
        self._planned = deque(plan_again(saved, redraw(saved)))
        self._ledger.check(self._num_in_flight)

    @property
    def _num_in_flight(self) -> int:
        return len(self._in_flight) + len(self._planned)

    def _capacity(self) -> int:
        """Completions that may be dispatched now."""
        return (self._max_staleness + 1) * self._rollouts_per_step - len(self._in_flight) + self._left_out

    def _dispatch(self) -> None:
        """Fill the capacity with whole groups: first the requests issued again after a resume, then new draws."""
        capacity = self._capacity()
        while len(self._planned) < capacity:
            requests = plan(next(self._prompts), first_id=self._next_request_id, seed=self._seed)
            self._planned += requests
            self._next_request_id += len(requests)
            self._ledger.dispatched += len(requests)
        planned: list[PlannedRequest] = []
        for request in self._planned:
            if len(planned) >= capacity and (not planned or request.drawn.group_id != planned[-1].drawn.group_id):
                break
            planned.append(request)
        if not planned:
            return
        prompts = [request.drawn.prompt for request in planned]
        known = self._baseline.read([prompt.key for prompt in prompts], self._version)
        for sent in dispatched(planned, known, version=self._version):
            self._in_flight[self._planned.popleft().request_id] = sent
        self._service.submit([generation_request(request) for request in planned], prompts)

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
        kept.sort(key=lambda rollout: rollout.request_id)
        unscored = tuple(rollout for rollout in kept if isinstance(rollout, UnscoredRollout))
        left_out = [rollout for group in (*stale, *flat) for rollout in group]
        reasons: dict[int, DropReason] = {rollout.request_id: "stale" for group in stale for rollout in group}
        reasons |= {rollout.request_id: "zero_variance" for group in flat for rollout in group}
        reasons |= {rollout.request_id: "unscored" for rollout in unscored}
        self._closing = {rollout.request_id: reasons.get(rollout.request_id) for rollout in (*kept, *left_out)}
        return StepRollouts(
            trainable=tuple(rollout for rollout in kept if isinstance(rollout, ScoredRollout)),
            unscored=unscored,
            baseline_only=tuple(rollout for rollout in left_out if isinstance(rollout, ScoredRollout)),
            dropped=tuple(DroppedRollout(request_id=number, reason=reason) for number, reason in reasons.items()),
            refilled=sum(len(group) for group in flat),
        )


def _without_variance(group: Group) -> bool:
    """As DAPO filters (arXiv 2503.14476): by what the answers are worth, without shaping such as a length penalty."""
    rewards = [rollout.tracker_reward for rollout in group if isinstance(rollout, ScoredRollout)]
    return len(group) > 1 and len(rewards) > 0 and max(rewards) == min(rewards)
