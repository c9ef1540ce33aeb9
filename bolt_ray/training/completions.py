"""From requests to scored completions: generators and scorers behind one pump.

    submit(requests) ─▶ GeneratorPool ─▶ ScorerPool ─▶ take(lane)

Training and evaluation share the engines; a lane keeps their results apart.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Literal, Protocol

import xxhash

from bolt_ray.core.records import Completion, RolloutRequest, ScoredCompletion, UnscoredCompletion
from bolt_ray.engines.settings import SamplingSettings

Lane = Literal["train", "eval"]
Outcome = ScoredCompletion | UnscoredCompletion

POLL_S = 0.2
BOTH_BUSY_S = 0.01


class Generators(Protocol):
    """What the pump needs of a generator pool."""

    @property
    def outstanding(self) -> int: ...
    def submit(self, requests: Sequence[RolloutRequest], sampling: SamplingSettings | None = None) -> None: ...
    def poll(self, timeout_s: float) -> list[Completion]: ...


class Scorers(Protocol):
    """What the pump needs of a scorer pool."""

    @property
    def num_pending(self) -> int: ...
    def submit(self, completions: Sequence[Completion]) -> None: ...
    def poll(self, timeout_s: float) -> list[Outcome]: ...


def request_seed(seed: int, request_id: int) -> int:
    """The sampling seed of one request: the same whichever generator answers it, and after a resume."""
    return int(xxhash.xxh32_intdigest(f"{seed}:{request_id}".encode())) & 0x7FFF_FFFF


def lane_of(request: RolloutRequest) -> Lane:
    return "eval" if request.for_evaluation else "train"


class BusyClock:
    """Seconds during which there was work, as seen at each ``mark``."""

    def __init__(self) -> None:
        self._total = 0.0
        self._since: float | None = None

    def mark(self, busy: bool) -> None:
        now = time.perf_counter()
        if self._since is not None:
            self._total += now - self._since
        self._since = now if busy else None

    @property
    def seconds(self) -> float:
        return self._total


class CompletionService:
    """Moves completions from the generators to the scorers to their lane; nothing blocks longer than asked.

    Attributes:
        generated_tokens: tokens of all completions so far, for throughput.
        generating_clock, scoring_clock: how long generators and scorers had something to do.
    """

    def __init__(self, *, generators: Generators, scorers: Scorers) -> None:
        self._generators = generators
        self._scorers = scorers
        self._done: dict[Lane, deque[Outcome]] = {"train": deque(), "eval": deque()}
        self.generated_tokens = 0
        self.generating_clock = BusyClock()
        self.scoring_clock = BusyClock()

    def submit(self, requests: Sequence[RolloutRequest], sampling: SamplingSettings | None = None) -> None:
        if requests:
            self._generators.submit(requests, sampling)
            self.generating_clock.mark(True)

    def pump(self, timeout_s: float) -> None:
        """Move what is ready; wait up to ``timeout_s`` for something when nothing is."""
        scoring = self._scorers.num_pending > 0
        waits_for_scores = scoring and self._generators.outstanding == 0
        # With both at work neither may keep the other's results waiting.
        patience = 0.0 if waits_for_scores else min(timeout_s, BOTH_BUSY_S) if scoring else timeout_s
        completions = self._generators.poll(patience)
        if completions:
            self.generated_tokens += sum(len(completion.token_ids) for completion in completions)
            self._scorers.submit(completions)
        for outcome in self._scorers.poll(timeout_s if waits_for_scores else 0.0):
            self._done[lane_of(outcome.completion.request)].append(outcome)
        self.generating_clock.mark(self._generators.outstanding > 0)
        self.scoring_clock.mark(self._scorers.num_pending > 0)

    def take(self, lane: Lane) -> list[Outcome]:
        """Everything scored in ``lane`` since the last call, in the order of arrival."""
        taken = list(self._done[lane])
        self._done[lane].clear()
        return taken

    @property
    def generating(self) -> int:
        return self._generators.outstanding

    @property
    def scoring(self) -> int:
        return self._scorers.num_pending
