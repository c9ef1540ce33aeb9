"""A run's main numbers as gauges of Ray: for its dashboard, for Prometheus, for Grafana."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import ray
from ray.util.metrics import Gauge

from bolt_ray.training.telemetry.observer import Observer

MIRRORED = """
step reward/mean reward/zero_std_fraction reward/unscored_fraction eval/pass@1
completions/mean_length completions/truncated_fraction
policy/entropy policy/logprob_gap adaptive_kl/raw_kl optim/grad_norm
baseline/avg_v_hat baseline/variance_reduction baseline/num_prompts curriculum/coverage curriculum/drawn_uncertainty
time/step time/generate time/train time/sync time/idle_generator time/idle_trainer
throughput/tokens_per_second policy/staleness_mean perf/mfu rollout/generator_replacements reward/scorer_restarts
memory/node_fraction memory/learner_host memory/generator_host memory/learner_gpu memory/generator_gpu
""".split()
"""Names of metrics.jsonl; `gauge_name` is what Ray calls each."""


def gauge_name(metric: str) -> str:
    """``bolt_ray_eval_pass_1`` for ``eval/pass@1``; Prometheus sees it with Ray's ``ray_`` before it."""
    return "bolt_ray_" + re.sub(r"\W", "_", metric)


class RayMetrics(Observer):
    """Sets the gauges at each record, where Ray runs; their tag ``run`` is the name of the run directory.

    Args:
        run: that name.
    """

    def __init__(self, run: str) -> None:
        self._tags = {"run": run}
        self._gauges: dict[str, Gauge] = {}

    def recorded(self, record: Mapping[str, Any]) -> None:
        if not ray.is_initialized():
            return
        for name in MIRRORED:
            if name in record:
                self._gauge(name).set(float(record[name]), tags=self._tags)

    def _gauge(self, name: str) -> Gauge:
        if name not in self._gauges:
            self._gauges[name] = Gauge(gauge_name(name), description=f"{name}, see docs/metrics.md", tag_keys=("run",))
        return self._gauges[name]
