"""What vLLM counts, in Ray's metrics endpoint under the names that vLLM's own logger for Ray gives it.

That logger (``vllm.v1.metrics.ray_wrappers``) needs Ray Serve and calls Ray for every token and request. Here the
engine counts, and its sums are handed to Ray every few seconds; the histograms of single requests are left out.
"""

from __future__ import annotations

import time

from ray.util.metrics import Counter, Gauge

from bolt_ray.engines.vllm.statistics import EngineStatistics

SHOWN_EVERY_S = 10.0
"""As often as Ray's own agent asks its processes."""

GAUGES = {
    "vllm_num_requests_running": "Requests decoded together; mean over the engine steps of the last seconds",
    "vllm_num_requests_waiting": "Requests that wait; mean over the engine steps of the last seconds",
    "vllm_kv_cache_usage_perc": "Used share of the key-value cache, the most of the last seconds; 1 is full",
}
COUNTERS = {
    "vllm_num_preemptions": "Requests whose cache was given to others",
    "vllm_prompt_tokens": "Prompt tokens worked on",
    "vllm_generation_tokens": "Tokens generated",
    "vllm_prefix_cache_queries": "Prompt tokens looked up in the prefix cache",
    "vllm_prefix_cache_hits": "Prompt tokens found there",
}
"""Ray's endpoint puts ``ray_`` before each name, and ``_total`` behind a counter's."""


class EngineSeries:
    """Shows one engine.

    Args:
        generator: value of the label of that name.
    """

    def __init__(self, generator: str) -> None:
        tags = {"generator": generator}
        keys = tuple(tags)
        self._gauges = {name: Gauge(name, text, keys).set_default_tags(tags) for name, text in GAUGES.items()}
        self._counters = {name: Counter(name, text, keys).set_default_tags(tags) for name, text in COUNTERS.items()}
        self._sum = EngineStatistics()
        self._shown_at = time.monotonic()

    def add(self, statistics: EngineStatistics) -> None:
        """Take in what happened; shown with what came before when ``SHOWN_EVERY_S`` have passed."""
        self._sum += statistics
        now = time.monotonic()
        if now - self._shown_at >= SHOWN_EVERY_S:
            shown, self._sum, self._shown_at = self._sum, EngineStatistics(), now
            self._show(shown)

    def _show(self, shown: EngineStatistics) -> None:
        steps = max(1, shown.steps)
        levels = (shown.running / steps, shown.waiting / steps, shown.kv_usage)
        for gauge, level in zip(self._gauges.values(), levels, strict=True):
            gauge.set(level)
        counts = (
            shown.preemptions,
            shown.prompt_tokens,
            shown.generated_tokens,
            shown.prefix_queries,
            shown.prefix_hits,
        )
        for counter, count in zip(self._counters.values(), counts, strict=True):
            if count:
                counter.inc(count)
