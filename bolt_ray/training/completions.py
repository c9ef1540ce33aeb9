"""From requests to scored completions: generators and scorers behind one interface.

    submit(requests, prompts) ─▶ GeneratorPool ─▶ ScorerPool ─▶ poll(kind)

Training and evaluation share the engines; the kind of a request keeps their results apart. A generator gets token ids
and a seed, a scorer gets the text of prompt and completion; only this service knows both.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.scorer_actor import ScoringRequest, ScoringResult
from bolt_ray.core.errors import RunError
from bolt_ray.core.records import (
    Completion,
    GenerationRequest,
    Outcome,
    Prompt,
    RequestKind,
    ScoredCompletion,
    UnscoredCompletion,
    UnscoredReason,
    fields_of,
)
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.statistics import EngineStatistics
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.training.telemetry.timer import Span

T = TypeVar("T")

POLL_S = 0.2
BOTH_BUSY_S = 0.01
LONGEST_SPAN_S = 5.0
"""Work that goes on is told in pieces of about this length, so that it is seen before it ends."""


class Generators(Protocol):
    """What the service needs of a generator pool."""

    @property
    def outstanding(self) -> int: ...
    @property
    def progress(self) -> int: ...
    @property
    def processes(self) -> Sequence[ProcessInfo]: ...
    @property
    def replacements(self) -> Sequence[str]: ...
    def take_statistics(self) -> EngineStatistics: ...
    def metrics(self) -> dict[str, float]: ...
    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingSettings | None = None) -> None: ...
    def poll(self, timeout_s: float) -> list[Completion]: ...


class Scorers(Protocol):
    """What the service needs of a scorer pool."""

    @property
    def num_pending(self) -> int: ...
    @property
    def processes(self) -> Sequence[ProcessInfo]: ...
    @property
    def restarts(self) -> int: ...
    def submit(self, requests: Sequence[ScoringRequest]) -> None: ...
    def poll(self, timeout_s: float) -> list[ScoringResult]: ...


def request_seed(seed: int, request_id: int) -> int:
    """The sampling seed of one request: the same whichever generator answers it, and after a resume."""
    return int(xxhash.xxh32_intdigest(f"{seed}:{request_id}".encode())) & 0x7FFF_FFFF


def reward_input(prompt: Prompt, completion: Completion, *, kind: RequestKind, prefill: str = "") -> RewardInput:
    """What the rewards get of a completion and the prompt it answers; ``prefill``: what of the answer that holds."""
    return RewardInput(
        prompt=prompt.prompt,
        completion=completion.text,
        answer=prompt.answer,
        metadata=prompt.metadata,
        source=prompt.source,
        dataset=prompt.dataset,
        truncated=completion.truncated,
        num_tokens=int(completion.token_ids.shape[0]),
        token_ids=tuple(completion.token_ids.tolist()),
        policy_version=completion.newest_version,
        evaluation=kind == "eval",
        prefill=prefill,
    )


class BusyClock:
    """Seconds during which there was work, as seen at each ``mark``.

    Args:
        ended: called with the span in which there was work, in pieces where it goes on.
        now: gives the time in seconds; only differences count.
    """

    def __init__(
        self, ended: Callable[[Span], None] = lambda span: None, *, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._total = 0.0
        self._since: float | None = None
        self._began: float | None = None
        self._ended, self._now = ended, now

    def mark(self, busy: bool) -> None:
        now = self._now()
        if self._since is not None:
            self._total += now - self._since
        self._since = now if busy else None
        if self._began is not None and (not busy or now - self._began >= LONGEST_SPAN_S):
            seconds, self._began = now - self._began, None
            self._ended(Span(name="busy", started=time.time() - seconds, seconds=seconds))
        if busy and self._began is None:
            self._began = now

    @property
    def seconds(self) -> float:
        return self._total


class CompletionService:
    """Moves completions from the generators to the scorers; no call blocks longer than asked.

    Attributes:
        generated_tokens: tokens of all completions so far, for throughput.
        generating_clock, scoring_clock: how long generators and scorers had something to do.
    """

    def __init__(
        self,
        *,
        generators: Generators,
        scorers: Scorers,
        opened: Callable[[NDArray[np.int32]], str] = lambda token_ids: "",
        worked: Callable[[str, Span], None] = lambda who, span: None,
    ) -> None:
        """
        Args:
            opened: what of the answer stands in a prompt's token ids, e.g. ``PromptTokenizer.opened``.
            worked: see `Observer.worked`.
        """
        self._generators = generators
        self._scorers = scorers
        self._opened = opened
        self._prompts: dict[int, tuple[GenerationRequest, Prompt]] = {}
        self._completions: dict[int, tuple[RequestKind, Completion]] = {}
        self._done: dict[RequestKind, deque[Outcome]] = {"train": deque(), "eval": deque()}
        self.generated_tokens = 0
        self.generating_clock = BusyClock(partial(worked, "generators"))
        self.scoring_clock = BusyClock(partial(worked, "scorers"))

    def submit(
        self,
        requests: Sequence[GenerationRequest],
        prompts: Sequence[Prompt],
        sampling: SamplingSettings | None = None,
    ) -> None:
        """Send requests to the generators.

        Args:
            requests: with ids that no request in flight has.
            prompts: the row each request was made from, for the rewards.
            sampling: in place of the generators' own settings.
        """
        if not requests:
            return
        for request, prompt in zip(requests, prompts, strict=True):
            self._prompts[request.request_id] = (request, prompt)
        self._generators.submit(requests, sampling)
        self.generating_clock.mark(True)

    def pump(self, timeout_s: float) -> None:
        """Move what is ready; wait up to ``timeout_s`` for something when nothing is."""
        scoring = self._scorers.num_pending > 0
        waits_for_scores = scoring and self._generators.outstanding == 0
        # With both at work neither may delay the other's results.
        patience = 0.0 if waits_for_scores else min(timeout_s, BOTH_BUSY_S) if scoring else timeout_s
        completions = self._generators.poll(patience)
        if completions:
            self.generated_tokens += sum(len(completion.token_ids) for completion in completions)
            self._scorers.submit([scored for each in completions if (scored := self._to_score(each)) is not None])
        for result in self._scorers.poll(timeout_s if waits_for_scores else 0.0):
            self._finish(result)
        self.generating_clock.mark(self._generators.outstanding > 0)
        self.scoring_clock.mark(self._scorers.num_pending > 0)

    def poll(self, kind: RequestKind) -> list[Outcome]:
        """The outcomes of one kind since the last call, in the order of arrival."""
        done = list(self._done[kind])
        self._done[kind].clear()
        return done

    @property
    def generating(self) -> int:
        return self._generators.outstanding

    @property
    def scoring(self) -> int:
        return self._scorers.num_pending

    @property
    def progress(self) -> tuple[int, ...]:
        """Changes with every token generated and every completion scored."""
        generators, scorers = self._generators, self._scorers
        return generators.progress, generators.outstanding, scorers.num_pending, self.generated_tokens

    @property
    def waited_for(self) -> list[ProcessInfo]:
        """The processes that owe something."""
        generators = self._generators.processes if self.generating else ()
        return [*generators, *(self._scorers.processes if self.scoring else ())]

    def check(self, *, expected: int) -> None:
        """Compare what is asked for with what generators and scorers hold.

        Args:
            expected: completions of training that have not come out of ``poll``.

        Raises:
            RunError: one was lost on the way, or is there twice.
        """
        kinds = [
            *(request.kind for request, _ in self._prompts.values()),
            *(kind for kind, _ in self._completions.values()),
        ]
        training = kinds.count("train") + len(self._done["train"])
        held, owed = (self.generating, self.scoring), (len(self._prompts), len(self._completions))
        if training != expected or held != owed:
            raise RunError(
                f"completions were lost or are there twice: {expected:,} of training are on the way and {training:,} "
                f"known here; of the generators {owed[0]:,} are expected and {held[0]:,} held there, of the scorers "
                f"{owed[1]:,} and {held[1]:,}"
            )

    @property
    def generator_replacements(self) -> int:
        """Generators replaced so far."""
        return len(self._generators.replacements)

    @property
    def scorer_restarts(self) -> int:
        """Scorers replaced so far."""
        return self._scorers.restarts

    def engine_metrics(self) -> dict[str, float]:
        """``engine/*`` of the generators since the last call, and ``cluster/*``."""
        return self._generators.take_statistics().metrics() | self._generators.metrics()

    def _to_score(self, completion: Completion) -> ScoringRequest | None:
        """What the scorers get of it; None for one that the generators gave up."""
        request, prompt = _taken(self._prompts, completion.request_id, by="the generators")
        if isinstance(completion, UnscoredCompletion):
            self._done[request.kind].append(completion)
            return None
        self._completions[completion.request_id] = (request.kind, completion)
        prefill = self._opened(request.token_ids)
        scored = reward_input(prompt, completion, kind=request.kind, prefill=prefill)
        return ScoringRequest(request_id=completion.request_id, input=scored)

    def _finish(self, scored: ScoringResult) -> None:
        kind, completion = _taken(self._completions, scored.request_id, by="the scorers")
        result = scored.result
        if isinstance(result, UnscoredReason):
            self._done[kind].append(UnscoredCompletion(**fields_of(completion), reason=result))
            return
        self._done[kind].append(
            ScoredCompletion(
                **fields_of(completion),
                reward=result.reward,
                tracker_reward=result.tracker_reward,
                parts=result.parts,
                metrics=result.metrics,
                extras=result.extras,
            )
        )


def _taken(owed: dict[int, T], request_id: int, *, by: str) -> T:
    """What an answer belongs to, once."""
    if request_id not in owed:
        raise RunError(f"{by} answered request {request_id} twice, or without being asked")
    return owed.pop(request_id)
