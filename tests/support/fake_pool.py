"""A pool of generators without Ray: its requests, and what they are answered by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from support.fake_ray import FakeRay
from support.settings import engine_settings

from bolt_ray.actors.cluster_watch import ClusterWatch
from bolt_ray.actors.generator_handle import Scores
from bolt_ray.actors.generator_pool import GeneratorPool
from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.core.records import Completion, GenerationRequest
from bolt_ray.engines.settings import SamplingSettings

ENGINE = engine_settings(model_dir="model", max_num_seqs=8)
SAMPLING = SamplingSettings(max_new_tokens=4)
PROBES = [[1, 2, 3]]


def requests(count: int, *, start: int = 0) -> list[GenerationRequest]:
    numbers = range(start, start + count)
    return [
        GenerationRequest(request_id=n, kind="train", token_ids=np.array([n, 1], dtype=np.int32), seed=100 + n)
        for n in numbers
    ]


def make_pool(ray: FakeRay, *, draining: dict[str, int] | None = None, **cluster: object) -> GeneratorPool:
    return GeneratorPool(
        cluster=ClusterSettings(**({"max_generator_replacements": 2} | cluster)),  # type: ignore[arg-type]
        engine=ENGINE,
        sampling=SAMPLING,
        resources=ray,
        startup_s=100.0,
        stall_s=50.0,
        runtime=ray,
        watch=ClusterWatch(lambda: {} if draining is None else draining, now=ray.now),
    )


def ready_pool(ray: FakeRay, **cluster: object) -> GeneratorPool:
    pool = make_pool(ray, **cluster)
    pool.wait_ready()
    return pool


def collect(pool: GeneratorPool) -> list[Completion]:
    """All that is outstanding; whatever happens, what was asked for is either outstanding or answered."""
    asked = pool.outstanding
    done: list[Completion] = []
    while pool.outstanding:
        done += pool.poll(1.0)
        assert pool.outstanding + len(done) == asked
    return done


def texts(done: Sequence[Completion]) -> list[tuple[int, str]]:
    return sorted((each.request_id, each.text) for each in done)


def answers(count: int, *, start: int = 0) -> list[tuple[int, str]]:
    """Each by its own prompt and seed, whichever generator it came from."""
    return [(n, f"{n}:{100 + n}:4") for n in range(start, start + count)]


def update(pool: GeneratorPool, version: int, *, off: float = 0.0) -> list[Scores]:
    def doubt(scores: Scores) -> str | None:
        return None if abs(scores[0][0] + version) < 0.5 else f"off by {scores[0][0] + version:.1f}"

    return pool.update_weights(None, [], version, probes=PROBES, doubt=doubt, timeout_s=20.0)  # type: ignore[arg-type]


def pass_time(pool: GeneratorPool, ray: FakeRay, seconds: float) -> None:
    """As a driver that polls now and then."""
    until = ray.clock + seconds
    while ray.clock < until:
        pool.poll(0.0)
        ray.clock += 0.5
