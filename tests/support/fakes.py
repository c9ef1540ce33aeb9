"""Small stand-ins for the generator pool, the scorer pool and the baseline, with the same interface.

Their answers depend on what they are asked: v̂ on key and version, tokens and log-probs on the request. A reading that
is swapped, mixed up or ignored therefore shows in the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bolt_ray.actors.generator_handle import InFlightRequest
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.request_queue import given_up
from bolt_ray.actors.scorer_actor import ScoringRequest, ScoringResult
from bolt_ray.core.records import BaselineReading, Completion, GenerationRequest, UnscoredReason
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.statistics import EngineStatistics
from bolt_ray.rewards.reward_set import RewardResult

RewardOf = Callable[[ScoringRequest], float | None]
"""The reward of a completion; None if it cannot be scored."""


def no_two_alike(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """A comparison of answers that finds none equal."""
    return [False] * len(pairs)


TIMEOUT = UnscoredReason(reward="fake", kind="timeout", detail="after 1 s")


def tokens_of(request_id: int) -> list[int]:
    """The tokens of the completion of a request: two or three, different for every request."""
    return [100 + 10 * abs(request_id) + place for place in range(2 + request_id % 2)]


def logprobs_of(request_id: int) -> list[float]:
    """Their log-probs: multiples of 1/64, so that float32 holds them exactly."""
    return [-(1 + abs(request_id) % 16 + 16 * place) / 64 for place in range(2 + request_id % 2)]


def answer(
    request: GenerationRequest, *, oldest: int, newest: int | None = None, truncated: bool = False
) -> Completion:
    """The completion of a request whose first token is of version ``oldest`` and whose last is of ``newest``."""
    newest = oldest if newest is None else newest
    assert newest >= oldest, "weights do not grow older while a completion is generated"
    return Completion(
        request_id=request.request_id,
        token_ids=np.array(tokens_of(request.request_id), dtype=np.int32),
        logprobs=np.array(logprobs_of(request.request_id), dtype=np.float32),
        text=str(request.seed),
        truncated=truncated,
        oldest_version=oldest,
        newest_version=newest,
    )


class FakeGenerators:
    """Answers all requests but the ``slow`` ones; ``version`` is that of its weights, ``backwards`` the order.

    ``given_up``: these it answers with the reason why it has no completion.
    """

    def __init__(self, *, slow: Sequence[int] = (), backwards: bool = False, given_up: Sequence[int] = ()) -> None:
        self.given_up = set(given_up)
        self.version = 0
        self.slow = set(slow)
        self.backwards = backwards
        self.waiting: list[GenerationRequest] = []
        self.seen: list[GenerationRequest] = []
        self.replacements: list[str] = []
        self.processes: Sequence[ProcessInfo] = ()
        self.progress = 0
        self._begun_at: dict[int, int] = {}
        self._counted = 0

    @property
    def outstanding(self) -> int:
        return len(self.waiting)

    def submit(self, requests: Sequence[GenerationRequest], sampling: object = None) -> None:
        self.waiting += requests
        self.seen += requests
        self._begun_at.update((request.request_id, self.version) for request in requests)

    def take_statistics(self) -> EngineStatistics:
        """Two steps, in which all requests submitted since the last call ran and took a quarter of the cache."""
        fresh, self._counted = len(self.seen) - self._counted, len(self.seen)
        return EngineStatistics(steps=2, running=2 * fresh, waiting=1, kv_usage=0.25, preemptions=3)

    def metrics(self) -> dict[str, float]:
        """One generator, and a node that goes."""
        return {"cluster/generators_live": 1.0, "cluster/generators_wanted": 1.0, "cluster/nodes_draining": 1.0}

    def poll(self, timeout_s: float) -> list[Completion]:
        done = [request for request in self.waiting if request.request_id not in self.slow]
        self.waiting = [request for request in self.waiting if request.request_id in self.slow]
        done = done[::-1] if self.backwards else done
        return [self.completed(request) for request in done]

    def completed(self, request: GenerationRequest, *, truncated: bool = False) -> Completion:
        """Begun with the weights of its submission, ended with the present ones."""
        begun = self._begun_at[request.request_id]
        if request.request_id in self.given_up:
            held = InFlightRequest(request, SamplingSettings(), losses=1)
            return given_up(held, "it died", version=self.version)
        return answer(request, oldest=begun, newest=self.version, truncated=truncated)


class FakeScorers:
    """Scores at once. ``shaping`` moves the advantage's reward only, that of request i by i times ``slope`` more."""

    def __init__(self, reward_of: RewardOf = lambda request: 1.0, *, shaping: float = 0.0, slope: float = 0.0) -> None:
        self.restarts = 0
        self.processes: Sequence[ProcessInfo] = ()
        self.seen: list[ScoringRequest] = []
        self._reward_of = reward_of
        self._shaping = shaping
        self._slope = slope
        self._queue: list[ScoringRequest] = []

    @property
    def num_pending(self) -> int:
        return len(self._queue)

    def submit(self, requests: Sequence[ScoringRequest]) -> None:
        self._queue += requests
        self.seen += requests

    def poll(self, timeout_s: float) -> list[ScoringResult]:
        queue, self._queue = self._queue, []
        return [ScoringResult(request_id=request.request_id, result=self._score(request)) for request in queue]

    def _score(self, request: ScoringRequest) -> RewardResult | UnscoredReason:
        reward = self._reward_of(request)
        if reward is None:
            return TIMEOUT
        shaped = reward + self._shaping + self._slope * request.request_id
        return RewardResult(reward=shaped, tracker_reward=reward, parts={"fake": reward})


def v_hat_of(key: str, version: int) -> float:
    """The fake baseline's v̂: different for every ``key-<n>`` and version."""
    return (1 + int(key.removeprefix("key-")) % 50) / 64 + version / 1024


def n_eff_of(key: str, version: int) -> float:
    """The fake baseline's N_eff."""
    return 2.0 + int(key.removeprefix("key-")) + 100 * version


def last_version_of(key: str, version: int) -> int:
    """When the fake baseline saw a prompt last: every third one never."""
    number = int(key.removeprefix("key-"))
    return version - number if number % 3 else -1


def visits_of(key: str) -> int:
    """How often the fake baseline saw a prompt."""
    return int(key.removeprefix("key-")) % 7


class FakeBaseline:
    """Reads ``v_hat_of``, ``n_eff_of``, ``last_version_of`` and ``visits_of``."""

    def read(self, keys: Sequence[str], version: int) -> BaselineReading:
        return BaselineReading(
            v_hat=np.array([v_hat_of(key, version) for key in keys]),
            n_eff=np.array([n_eff_of(key, version) for key in keys]),
            last_version=np.array([last_version_of(key, version) for key in keys], dtype=np.int64),
            visits=np.array([visits_of(key) for key in keys], dtype=np.int64),
        )
