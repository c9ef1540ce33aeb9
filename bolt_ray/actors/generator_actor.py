"""One generator: an engine, a thread that steps it, and a Ray actor around both.

    submit ─┐
    score  ─┼─▶ engine thread: one call or one step at a time ─▶ poll (long poll)
    update ─┘

Everything that touches the engine runs on its one thread, between two steps; an update therefore meets no step in
progress. While requests are unfinished a step follows a step; otherwise the thread sleeps.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import ray
from numpy.typing import NDArray

from bolt_ray.actors.engine_series import EngineSeries
from bolt_ray.actors.processes import ProcessInfo, ProcessMonitor
from bolt_ray.core.errors import RunError
from bolt_ray.core.records import Completion, GenerationRequest
from bolt_ray.engines.model_directory import model_directory
from bolt_ray.engines.profiler import ProfileTarget
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.engine import VLLMEngine
from bolt_ray.engines.vllm.settings import EngineSettings
from bolt_ray.engines.vllm.statistics import EngineStatistics
from bolt_ray.engines.weight_buckets import WeightManifest

T = TypeVar("T")

LINGER_S = 0.05
"""How long the first finished completion waits for others to go with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PollResult:
    """The result of one long poll.

    Attributes:
        completions: finished since the last poll.
        progress: tokens generated so far; a generator with work whose number does not rise is stuck.
        statistics: of the engine, since the last poll.
        process: the generator's.
    """

    completions: list[Completion]
    progress: int
    statistics: EngineStatistics
    process: ProcessInfo


class Generator:
    """The actor. Its methods are called on Ray's threads; the engine runs on its own thread.

    Args:
        name: its own, for whoever watches.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._monitor = ProcessMonitor("generator", name)
        self._series = EngineSeries(name)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        self._engine: VLLMEngine | None = None
        self._stepping = False
        self._changed = threading.Condition()
        self._finished: list[Completion] = []
        self._withdrawn: set[int] = set()
        self._failure: BaseException | None = None

    def __repr__(self) -> str:
        """What Ray shows."""
        return self._name

    def hello(self) -> ProcessInfo:
        """Where it runs; the answer says that Ray found a place for it."""
        return self._monitor.info()

    def start(self, settings: EngineSettings, sampling: SamplingSettings, policy_version: int) -> ProcessInfo:
        """Load the model.

        Raises:
            UserError: the engine cannot start.
        """
        settings = replace(settings, model_dir=str(model_directory(settings.model_dir)))
        # Beyond one GPU the engine's workers are processes of their own.
        self._monitor = ProcessMonitor("generator", self._name, children=settings.tensor_parallel_size > 1)
        self._engine = self._on_engine_thread(
            lambda: VLLMEngine(settings, sampling=sampling, policy_version=policy_version)
        )
        return self._monitor.info()

    def submit(self, requests: Sequence[GenerationRequest], sampling: SamplingSettings | None = None) -> None:
        """Queue requests and return.

        Raises:
            DataError: a prompt cannot be generated from; nothing was queued.
        """

        def add() -> None:
            wanted = [request for request in requests if request.request_id not in self._withdrawn]
            self._withdrawn.difference_update(request.request_id for request in requests)
            self._running.add(wanted, sampling)
            self._keep_stepping()

        self._on_engine_thread(add)

    def abort(self, request_ids: Sequence[int]) -> None:
        """Drop requests, whether they run, are finished and not polled yet, or are still to be submitted."""

        def drop() -> None:
            self._withdrawn.update(self._running.abort(request_ids))
            with self._changed:
                held = {each.request_id for each in self._finished} & self._withdrawn
                self._finished = [each for each in self._finished if each.request_id not in held]
                self._withdrawn -= held

        self._on_engine_thread(drop)

    def poll(self, timeout_s: float) -> PollResult:
        """Wait until something is finished, at most ``timeout_s``, and return all of it.

        A little later rather than one by one: a batch of short completions ends within a few steps.

        Raises:
            RunError: the engine failed.
        """
        with self._changed:
            if self._changed.wait_for(lambda: self._finished or self._failure, timeout=timeout_s):
                self._changed.wait_for(self._is_idle, timeout=LINGER_S)
            if self._failure is not None:
                raise RunError(f"the generation engine failed: {self._failure!r}")
            finished, self._finished = self._finished, []
        statistics = self._running.take_statistics()
        self._series.add(statistics)
        return PollResult(
            completions=finished,
            progress=self._running.generated_tokens,
            statistics=statistics,
            process=self._monitor.info(),
        )

    def update_weights(
        self,
        manifest: WeightManifest,
        buckets: Sequence[Any],
        version: int,
        probes: Sequence[Sequence[int]] = (),
    ) -> list[NDArray[np.float32]]:
        """Pull the buckets, replace the weights between two steps, and score ``probes`` under the new ones.

        Args:
            buckets: object references of the buckets; pulled while generation still goes on.

        Raises:
            WeightSyncError: refused or failed; ``CorruptedEngineError`` if this generator cannot be used any more.
        """
        arrays = ray.get(list(buckets))

        def update() -> list[NDArray[np.float32]]:
            self._running.update_weights(manifest, arrays, version)
            scores = self._running.score(probes)
            self._keep_stepping()
            return scores

        return self._on_engine_thread(update)

    def update_adapter(
        self, path: str, version: int, probes: Sequence[Sequence[int]] = ()
    ) -> list[NDArray[np.float32]]:
        """Serve the LoRA adapter in ``path`` as policy version ``version``, and score ``probes`` under it."""

        def update() -> list[NDArray[np.float32]]:
            self._running.update_adapter(path, version)
            scores = self._running.score(probes)
            self._keep_stepping()
            return scores

        return self._on_engine_thread(update)

    def score(self, sequences: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """``VLLMEngine.score``; requests in flight go on meanwhile."""

        def score() -> list[NDArray[np.float32]]:
            scores = self._running.score(sequences)
            self._keep_stepping()
            return scores

        return self._on_engine_thread(score)

    def profile(self, target: ProfileTarget | None) -> None:
        """Record what is generated from now on; None ends that and writes the files.

        Never raises: the reason of a failure is among the files.
        """
        try:
            self._on_engine_thread(lambda: self._running.profile(target, who=self._name))
        except Exception as error:  # noqa: BLE001 - a recording never ends a run
            if target is not None:
                target.failed(self._name, error)

    @property
    def _running(self) -> VLLMEngine:
        assert self._engine is not None, "start() comes first"
        return self._engine

    def _on_engine_thread(self, call: Callable[[], T]) -> T:
        return self._thread.submit(call).result()

    def _keep_stepping(self) -> None:
        """On the engine thread: queue a step behind whatever calls wait already."""
        if not self._stepping and self._running.num_unfinished:
            self._stepping = True
            self._thread.submit(self._step).add_done_callback(self._note_failure)

    def _step(self) -> None:
        self._stepping = False
        finished = self._running.step()
        if finished or self._running.num_unfinished == 0:
            with self._changed:
                self._finished += finished
                self._changed.notify_all()
        self._keep_stepping()

    def _is_idle(self) -> bool:
        return self._failure is not None or self._running.num_unfinished == 0

    def _note_failure(self, step: Future[None]) -> None:
        error = step.exception()
        if error is not None:
            with self._changed:
                self._failure = error
                self._changed.notify_all()


RemoteGenerator = ray.remote(Generator)
