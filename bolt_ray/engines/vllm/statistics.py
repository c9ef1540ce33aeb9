"""What a vLLM engine counts while it works."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from typing import Any

from bolt_ray.core.metric_names import declare_metrics

declare_metrics(
    {
        "engine/running": ("requests", "decoded together in one generator, mean over the engine's steps"),
        "engine/waiting": (
            "requests",
            "waiting in one generator for a place (generator.max_num_seqs) or for cache, mean over the engine's steps",
        ),
        "engine/kv_usage": ("share", "used part of a generator's key-value cache, the most it came to"),
        "engine/preemptions": (
            "requests",
            "whose cache was given to others and is computed again; more cache (generator.kv_cache_gib, "
            "gpu_memory_utilization) or a smaller generator.max_num_seqs ends it",
        ),
        "engine/prefix_hit_fraction": ("share of tokens", "of the prompts, found in the prefix cache; if there is one"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatistics:
    """What happened in some engine steps; statistics of several engines may be added.

    Attributes:
        steps: engine steps.
        running, waiting: requests, added up over the steps.
        kv_usage: highest used share of the key-value cache.
        preemptions: requests that lost their cache.
        prompt_tokens, generated_tokens: worked on.
        prefix_queries, prefix_hits: prompt tokens looked up in the prefix cache, and found there.
    """

    steps: int = 0
    running: int = 0
    waiting: int = 0
    kv_usage: float = 0.0
    preemptions: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0

    def __add__(self, other: EngineStatistics) -> EngineStatistics:
        sums = {each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)}
        return EngineStatistics(**sums | {"kv_usage": max(self.kv_usage, other.kv_usage)})

    def metrics(self) -> dict[str, float]:
        """``engine/*``; none where no engine made a step."""
        if not self.steps:
            return {}
        metrics = {
            "engine/running": self.running / self.steps,
            "engine/waiting": self.waiting / self.steps,
            "engine/kv_usage": self.kv_usage,
            "engine/preemptions": float(self.preemptions),
        }
        if self.prefix_queries:
            metrics["engine/prefix_hit_fraction"] = self.prefix_hits / self.prefix_queries
        return metrics


class StatisticsCollector:
    """Adds up what an engine's thread records until any other one takes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sum = EngineStatistics()

    def record(self, scheduler: Any, iteration: Any) -> None:
        """vLLM's ``SchedulerStats`` and ``IterationStats`` of one engine step; either may be missing."""
        if scheduler is None:
            return
        step = EngineStatistics(
            steps=1,
            running=scheduler.num_running_reqs,
            waiting=scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs,
            kv_usage=scheduler.kv_cache_usage,
            preemptions=0 if iteration is None else iteration.num_preempted_reqs,
            prompt_tokens=0 if iteration is None else iteration.num_prompt_tokens,
            generated_tokens=0 if iteration is None else iteration.num_generation_tokens,
            prefix_queries=scheduler.prefix_cache_stats.queries,
            prefix_hits=scheduler.prefix_cache_stats.hits,
        )
        with self._lock:
            self._sum += step

    def take(self) -> EngineStatistics:
        """All since the last call."""
        with self._lock:
            taken, self._sum = self._sum, EngineStatistics()
        return taken


def stat_logger(collector: StatisticsCollector) -> type:
    """A class that vLLM makes the logger of its statistics from, to hand them to ``collector``."""
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    class CollectingStatLogger(PrometheusStatLogger):  # type: ignore[misc]  # vLLM has no types here
        """By its base it takes the place of vLLM's logger for Prometheus, whose calls for every token and request
        cost a generator of small models 7 % of its time; nothing of that base is used."""

        def __init__(self, vllm_config: Any, engine_indexes: Any = None) -> None:
            """Nothing to set up."""

        def record(
            self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
        ) -> None:
            collector.record(scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            """Nothing to say."""

    return CollectingStatLogger
