"""What an engine's steps add up to; how the real vLLM counts: test_generation.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from bolt_ray.engines.vllm.statistics import EngineStatistics, StatisticsCollector


def scheduler(running: int, waiting: int, kv_usage: float, *, queries: int = 0, hits: int = 0) -> Any:
    """What vLLM says of a step; one more request is put off."""
    return SimpleNamespace(
        num_running_reqs=running,
        num_waiting_reqs=waiting,
        num_skipped_waiting_reqs=1,
        kv_cache_usage=kv_usage,
        prefix_cache_stats=SimpleNamespace(queries=queries, hits=hits),
    )


def iteration(preempted: int) -> Any:
    return SimpleNamespace(num_preempted_reqs=preempted, num_prompt_tokens=30, num_generation_tokens=8)


def test_steps_add_up_until_they_are_taken() -> None:
    collector = StatisticsCollector()
    collector.record(scheduler(8, 5, 0.75, queries=20, hits=5), iteration(preempted=2))
    collector.record(scheduler(4, 0, 0.5), None)
    collector.record(None, None)
    taken = collector.take()
    assert taken == EngineStatistics(
        steps=2,
        running=12,
        waiting=7,
        kv_usage=0.75,
        preemptions=2,
        prompt_tokens=30,
        generated_tokens=8,
        prefix_queries=20,
        prefix_hits=5,
    )
    assert collector.take() == EngineStatistics()


def test_metrics_are_of_one_generator_and_of_all_together() -> None:
    one = EngineStatistics(steps=3, running=30, waiting=3, kv_usage=0.25, preemptions=1)
    other = EngineStatistics(steps=1, running=2, kv_usage=0.5, preemptions=4, prefix_queries=8, prefix_hits=6)
    assert (one + other).metrics() == {
        "engine/running": 8.0,
        "engine/waiting": 0.75,
        "engine/kv_usage": 0.5,
        "engine/preemptions": 5.0,
        "engine/prefix_hit_fraction": 0.75,
    }
    assert "engine/prefix_hit_fraction" not in one.metrics()
    assert EngineStatistics().metrics() == {}
