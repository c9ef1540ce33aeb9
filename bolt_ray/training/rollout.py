"""The rollout loop: prompts out, one optimizer step's completions back.

    prompt stream ──draws──▶ dispatch (v̂ and version read here) ──▶ CompletionService
                                 ▲ allowance                               │ scored, unscored
                                 │                                         ▼
        release(version) ◀── learner ◀── next_step(): R completions ◀── ready units

One loop serves every staleness. At most ``(max_staleness + 1) · rollouts_per_step`` completions are dispatched and
not yet trained; those being trained count until ``release`` announces the new version. With ``max_staleness`` 0
nothing is therefore dispatched between the closing of a step and the next version; with n ≥ 1 generation runs on
while the learner works. Slow completions carry over to a later step: dropping them would favor short answers. Only
what has become older than the bound is dropped from training, counted, and still kept as evidence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.errors import StallError
from bolt_ray.core.records import (
    DrawnPrompt,
    DroppedCompletion,
    RolloutRequest,
    ScoredCompletion,
    UnscoredCompletion,
)
from bolt_ray.training.completions import POLL_S, CompletionService, Outcome, request_seed


class BaselineReader(Protocol):
    """Reads v̂ and N_eff of keys at a policy version: float arrays [n]."""

    def read(
        self, keys: Sequence[str], version: int
    ) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRollouts:
    """What one optimizer step is made of.

    Attributes:
        trainable: scored completions to train on, in the order of their requests.
        unscored: no evidence, not trained.
        evidence_only: scored but not trained (stale, or a group without variance); the baseline still learns.
        dropped: every completion left out of training, with its reason.
        refilled: completions generated in place of groups without variance.
    """

    trainable: tuple[ScoredCompletion, ...]
    unscored: tuple[UnscoredCompletion, ...]
    evidence_only: tuple[ScoredCompletion, ...]
    dropped: tuple[DroppedCompletion, ...]
    refilled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """A dispatched request that no finished step contains: what resume issues again."""

    request_id: int
    draw_id: int
    row: int
    sample_index: int
    num_samples: int
    seed: int


class RolloutLoop:
    """See the module's picture. Single-threaded: ``pump`` is called wherever the driver would otherwise wait."""

    def __init__(
        self,
        *,
        service: CompletionService,
        prompts: Iterator[DrawnPrompt],
        baseline: BaselineReader,
        rollouts_per_step: int,
        max_staleness: int,
        keep_groups: bool,
        dynamic_sampling_rounds: int,
        seed: int,
        stall_s: float,
        version: int = 0,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """``check`` is called while ``next_step`` waits and may raise, for example on an interrupt: everything
        dispatched is still in the ledger then."""
        self._service = service
        self._prompts = prompts
        self._baseline = baseline
        self._rollouts_per_step = rollouts_per_step
        self._max_staleness = max_staleness
        self._keep_groups = keep_groups
        self._refill_rounds = dynamic_sampling_rounds
        self._seed = seed
        self._stall_s = stall_s
        self._check = check
        self._version = version
        self._next_request_id = 0
        self._reissue: list[tuple[LedgerEntry, DrawnPrompt]] = []
        self._ledger: dict[int, RolloutRequest] = {}
        self._waiting: dict[int, list[Outcome]] = {}
        self._ready: list[list[Outcome]] = []
        self._in_training: frozenset[int] = frozenset()
        self._left_out = 0

    @property
    def version(self) -> int:
        return self._version

    def release(self, version: int) -> None:
        """The generators have acknowledged ``version``: the step's completions leave the ledger."""
        self._version = version
        for request_id in self._in_training:
            del self._ledger[request_id]
        self._in_training = frozenset()

    def pump(self, timeout_s: float = 0.0) -> None:
        """Dispatch what staleness allows and move what is done."""
        self._dispatch()
        self._service.pump(timeout_s)
        for outcome in self._service.take("train"):
            self._arrive(outcome)

    def next_step(self) -> StepRollouts:
        """Block until a step is full and return it.

        Raises:
            StallError: nothing arrived for ``stall_s`` although completions are outstanding.
        """
        kept: list[Outcome] = []
        stale: list[list[Outcome]] = []
        flat: list[list[Outcome]] = []
        refill_budget = self._refill_rounds * self._rollouts_per_step
        last_arrival, seen = time.monotonic(), -1
        while len(kept) < self._rollouts_per_step:
            for unit in self._take_ready():
                if self._is_stale(unit):
                    stale.append(unit)
                    self._left_out += len(unit)
                elif refill_budget >= len(unit) and _without_variance(unit):
                    refill_budget -= len(unit)
                    flat.append(unit)
                    self._left_out += len(unit)
                elif len(kept) < self._rollouts_per_step:
                    kept.extend(unit)
                else:
                    self._ready.append(unit)
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
        """What is dispatched and in no finished step, and the request counter. Call it between steps."""
        entries = [
            [r.request_id, r.drawn.draw_id, r.drawn.prompt.row, r.sample_index, r.drawn.num_samples, r.seed]
            for r in self._ledger.values()
        ]
        entries += [[e.request_id, e.draw_id, e.row, e.sample_index, e.num_samples, e.seed] for e, _ in self._reissue]
        return {"next_request_id": self._next_request_id, "ledger": sorted(entries)}

    def load_state_dict(
        self, state: dict[str, Any], *, redraw: Callable[[Sequence[LedgerEntry]], Sequence[DrawnPrompt]]
    ) -> None:
        """Continue from ``state``; ``redraw`` reads the ledger's prompts again, one per entry."""
        names = ("request_id", "draw_id", "row", "sample_index", "num_samples", "seed")
        entries = [LedgerEntry(**dict(zip(names, entry, strict=True))) for entry in state["ledger"]]
        self._next_request_id = int(state["next_request_id"])
        self._reissue = list(zip(entries, redraw(entries), strict=True))

    def _allowance(self) -> int:
        return (self._max_staleness + 1) * self._rollouts_per_step - len(self._ledger) + self._left_out

    def _dispatch(self) -> None:
        """Fill the allowance: what resume owes first, then new draws."""
        allowance = self._allowance()
        wanted: list[tuple[int, DrawnPrompt, int, int]] = []
        while self._reissue and len(wanted) < allowance:
            entry, drawn = self._reissue.pop(0)
            wanted.append((entry.request_id, drawn, entry.sample_index, entry.seed))
        while not self._reissue and len(wanted) < allowance:
            drawn = next(self._prompts)
            for sample_index in range(drawn.num_samples):
                request_id = self._next_request_id
                self._next_request_id += 1
                wanted.append((request_id, drawn, sample_index, request_seed(self._seed, request_id)))
        if not wanted:
            return
        keys = [drawn.prompt.key for _, drawn, _, _ in wanted]
        v_hat, n_eff = self._baseline.read(keys, self._version)
        requests = [
            RolloutRequest(
                request_id=request_id,
                drawn=drawn,
                sample_index=sample_index,
                v_hat=float(v_hat[i]),
                n_eff=float(n_eff[i]),
                policy_version=self._version,
                seed=seed,
            )
            for i, (request_id, drawn, sample_index, seed) in enumerate(wanted)
        ]
        self._ledger.update((request.request_id, request) for request in requests)
        self._service.submit(requests)

    def _arrive(self, outcome: Outcome) -> None:
        """A unit is ready when it is whole: one completion, or a group where the advantage needs it whole."""
        drawn = outcome.completion.request.drawn
        if not self._keep_groups or drawn.num_samples == 1:
            self._ready.append([outcome])
            return
        group = self._waiting.setdefault(drawn.draw_id, [])
        group.append(outcome)
        if len(group) == drawn.num_samples:
            self._ready.append(self._waiting.pop(drawn.draw_id))

    def _take_ready(self) -> list[list[Outcome]]:
        """All ready units, oldest first, so that none waits until it is stale."""
        units = sorted(self._ready, key=lambda unit: min(o.completion.request.request_id for o in unit))
        self._ready = []
        return units

    def _is_stale(self, unit: list[Outcome]) -> bool:
        return any(self._version - outcome.completion.oldest_version > self._max_staleness for outcome in unit)

    def _close_step(
        self, kept: list[Outcome], *, stale: list[list[Outcome]], flat: list[list[Outcome]]
    ) -> StepRollouts:
        """Only now does what is left out leave the ledger: an interrupt before this point loses nothing."""
        kept.sort(key=lambda outcome: outcome.completion.request.request_id)
        self._in_training = frozenset(outcome.completion.request.request_id for outcome in kept)
        unscored = tuple(outcome for outcome in kept if isinstance(outcome, UnscoredCompletion))
        left_out = [(outcome, "stale") for unit in stale for outcome in unit]
        left_out += [(outcome, "zero_variance") for unit in flat for outcome in unit]
        for outcome, _ in left_out:
            del self._ledger[outcome.completion.request.request_id]
        self._left_out = 0
        return StepRollouts(
            trainable=tuple(outcome for outcome in kept if isinstance(outcome, ScoredCompletion)),
            unscored=unscored,
            evidence_only=tuple(outcome for outcome, _ in left_out if isinstance(outcome, ScoredCompletion)),
            dropped=tuple(
                DroppedCompletion(request=outcome.completion.request, reason=reason)
                for outcome, reason in [*left_out, *((outcome, "unscored") for outcome in unscored)]
            ),
            refilled=sum(len(unit) for unit in flat),
        )


def _without_variance(unit: list[Outcome]) -> bool:
    rewards = [outcome.reward for outcome in unit if isinstance(outcome, ScoredCompletion)]
    return len(unit) > 1 and len(rewards) > 0 and max(rewards) == min(rewards)
