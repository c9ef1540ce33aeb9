"""Real generators under Ray: every request answered once, whatever happens to the processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray
from support.settings import engine_settings

from bolt_ray.actors.generator_pool import GeneratorPool
from bolt_ray.actors.generator_resources import GeneratorResources
from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.core.errors import DataError, ModelError, RunError, WeightSyncError
from bolt_ray.core.records import Completion, GenerationRequest
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.settings import EngineSettings
from bolt_ray.engines.weight_buckets import pack_buckets
from bolt_ray.tasks.tiny.model import create_model, save_model
from bolt_ray.tasks.tiny.settings import TinyModelSettings

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

SEQUENCE = [5, 6, 7, 8, 9, 10, 11]
LONG = SamplingSettings(max_new_tokens=100)
DEADLINE_S = 240.0


def _requests(count: int, *, start: int = 0, prompt: list[int] | None = None) -> list[GenerationRequest]:
    requests = []
    for request_id in range(start, start + count):
        token_ids = np.array([5 + request_id % 20, 6, 7] if prompt is None else prompt, dtype=np.int32)
        requests.append(GenerationRequest(request_id=request_id, kind="train", token_ids=token_ids, seed=request_id))
    return requests


def _collect(pool: GeneratorPool, *, at_least: int | None = None) -> list[Completion]:
    """Poll until nothing is outstanding, or ``at_least`` completions are there."""
    deadline = time.monotonic() + DEADLINE_S
    done: list[Completion] = []
    while pool.outstanding and (at_least is None or len(done) < at_least):
        assert time.monotonic() < deadline, f"{pool.outstanding} outstanding, replaced: {pool.replacements}"
        done += pool.poll(0.5)
    return done


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _wait_for_two(pool: GeneratorPool) -> None:
    """A second one joins while there is work."""
    deadline = time.monotonic() + DEADLINE_S
    while pool.num_live < 2:
        assert time.monotonic() < deadline, pool.replacements
        pool.submit(_requests(20, start=9000))
        _collect(pool)
    pool.take_statistics()


def _pids(pool: GeneratorPool) -> list[int]:
    return [process.pid for process in pool.processes]


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@dataclass
class Served:
    """A pool of two generators and the Transformers model whose weights they have."""

    pool: GeneratorPool
    model: Any

    def sync(self, seed: int) -> list[list[NDArray[np.float32]]]:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        version = self.pool.version + 1
        manifest, buckets = pack_buckets(self.model.named_parameters(), bucket_bytes=100_000, version=version)
        refs = [ray.put(bucket) for bucket in buckets]
        return self.pool.update_weights(manifest, refs, version, probes=[SEQUENCE], timeout_s=300.0)

    def expected(self) -> NDArray[np.float32]:
        """Transformers' log p of ``SEQUENCE`` from its second token on."""
        ids = torch.tensor([SEQUENCE])
        with torch.no_grad():
            logprobs = self.model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
        return np.asarray(logprobs.gather(1, ids[0, 1:, None])[:, 0].numpy())


def start_pool(
    *, engine: EngineSettings, sampling: SamplingSettings | None = None, stall_s: float = 500.0
) -> GeneratorPool:
    return GeneratorPool(
        cluster=ClusterSettings(max_generators=2, max_generator_replacements=2),
        engine=engine,
        sampling=sampling or SamplingSettings(),
        resources=GeneratorResources(num_cpus=1.0, num_gpus=0.0, num_threads=1, spare_cpus=1.0),
        stall_s=stall_s,
        startup_s=500.0,
    )


@pytest.fixture(scope="module")
def served(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("generators")
    model, tokenizer = create_model(TinyModelSettings(size="tiny", tie_embeddings=True), seed=0)
    save_model(model, tokenizer, directory)
    pool = start_pool(
        engine=engine_settings(model_dir=str(directory), max_model_len=128, kv_cache_bytes=64 << 20),
        sampling=SamplingSettings(max_new_tokens=10),
        stall_s=10.0,
    )
    pool.wait_ready()
    assert pool.num_live == 1
    _wait_for_two(pool)
    yield Served(pool=pool, model=model.eval())
    pids = _pids(pool)
    pool.close()
    _wait_until(lambda: all(_gone(pid) for pid in pids))


def test_every_request_is_answered_once_under_its_id(served: Served) -> None:
    requests = _requests(64)
    served.pool.submit(requests)
    assert served.pool.outstanding == 64
    done = _collect(served.pool)
    assert sorted(completion.request_id for completion in done) == list(range(64))
    assert {(c.oldest_version, c.newest_version) for c in done} == {(0, 0)}
    assert served.pool.outstanding == 0
    assert served.pool.poll(0.0) == []
    statistics = served.pool.take_statistics()
    assert statistics.generated_tokens == sum(len(completion.token_ids) for completion in done)
    assert statistics.prompt_tokens == 64 * 3
    # Two generators share 64 requests; whoever has just ended is not counted as running any more.
    assert 0 < statistics.metrics()["engine/running"] <= 32
    assert 0 < statistics.metrics()["engine/kv_usage"] < 1
    assert [process.name for process in served.pool.processes] == ["generator-0", "generator-1"]
    assert {process.node_id for process in served.pool.processes} == {ray.get_runtime_context().get_node_id()}
    assert all(process.host_bytes > 100 * 2**20 for process in served.pool.processes), "PyTorch and vLLM are loaded"


def test_an_update_reaches_every_generator_and_meets_requests_in_flight(served: Served) -> None:
    crossed = False
    deadline = time.monotonic() + DEADLINE_S
    while not crossed:
        assert time.monotonic() < deadline
        version = served.pool.version
        served.pool.submit(_requests(200, start=1000), LONG)
        done = _collect(served.pool, at_least=1)
        scores = served.sync(version)
        assert served.pool.version == version + 1
        assert len(scores) == 2
        for score in scores:
            np.testing.assert_allclose(score[0], served.expected(), atol=1e-3)
        done += _collect(served.pool)
        assert sorted(completion.request_id for completion in done) == list(range(1000, 1200))
        crossed = (version, version + 1) in {(c.oldest_version, c.newest_version) for c in done}


def test_other_weights_are_refused_and_generation_goes_on(served: Served) -> None:
    manifest, buckets = pack_buckets([("model.norm.weight", torch.ones(3))], bucket_bytes=1000, version=9)
    before = served.pool.version
    with pytest.raises(WeightSyncError, match="1 of another shape"):
        served.pool.update_weights(manifest, [ray.put(bucket) for bucket in buckets], 9, timeout_s=300.0)
    assert served.pool.version == before
    served.pool.submit(_requests(4, start=2000))
    assert {completion.newest_version for completion in _collect(served.pool)} == {before}


def test_a_bad_prompt_is_reported_and_the_generators_live(served: Served) -> None:
    served.pool.submit(_requests(1, start=3000, prompt=[5] * 200))
    with pytest.raises(DataError, match=r"prompt of request \d+ has 200 tokens; the context of 128"):
        _collect(served.pool)
    assert served.pool.outstanding == 0
    served.pool.submit(_requests(4, start=3001))
    assert len(_collect(served.pool)) == 4
    assert served.pool.replacements == ()


def test_after_going_back_the_same_requests_are_answered_by_the_next_weights_only(served: Served) -> None:
    """One generator stays; the other, which had joined, gives back its room and joins again."""
    version = served.pool.version
    served.pool.submit(_requests(200, start=5000), LONG)
    _collect(served.pool, at_least=5)
    served.pool.reset(version - 1)
    assert (served.pool.outstanding, served.pool.num_live, served.pool.version) == (0, 1, version - 1)
    served.pool.submit(_requests(200, start=5000))
    scores = served.sync(version)
    np.testing.assert_allclose(scores[0][0], served.expected(), atol=1e-3)
    done = _collect(served.pool)
    assert sorted(completion.request_id for completion in done) == list(range(5000, 5200))
    assert {(c.oldest_version, c.newest_version) for c in done} == {(version, version)}
    assert max(len(completion.token_ids) for completion in done) <= 10, "the others were to have up to a hundred"
    assert served.pool.replacements == ()
    _wait_for_two(served.pool)


def test_room_is_found_where_there_is_some_and_asked_for_where_there_is_none(ray_cluster: None) -> None:
    resources = GeneratorResources(num_cpus=0.5, num_gpus=0.0, num_threads=1, spare_cpus=0.5)
    some, none = resources.ask_room(), replace(resources, num_gpus=1.0).ask_room()
    _wait_until(some.found)
    assert not none.found()
    some.release()
    none.release()
    assert not some.found()


def test_a_killed_and_a_stuck_generator_are_replaced_at_the_current_version(served: Served) -> None:
    killed, stuck = _pids(served.pool)
    served.pool.submit(_requests(300, start=4000), LONG)
    done = _collect(served.pool, at_least=5)
    os.kill(killed, signal.SIGKILL)
    os.kill(stuck, signal.SIGSTOP)
    done += _collect(served.pool)
    assert sorted(completion.request_id for completion in done) == list(range(4000, 4300))
    assert {completion.newest_version for completion in done} == {served.pool.version}
    _wait_for_two(served.pool)
    assert len(served.pool.replacements) == 2
    assert len(served.pool.processes) == 2
    assert any("no token for" in reason for reason in served.pool.replacements)
    _wait_until(lambda: _gone(killed) and _gone(stuck))
    scores = served.pool.score([SEQUENCE], timeout_s=300.0)
    assert len(scores) == 2
    for score in scores:
        np.testing.assert_allclose(score[0], served.expected(), atol=1e-3)


def test_one_replacement_too_many_ends_the_run(served: Served) -> None:
    served.pool.submit(_requests(50, start=6000), LONG)
    os.kill(_pids(served.pool)[0], signal.SIGKILL)
    with pytest.raises(RunError, match=r"3 generators had to be replaced, more than the 2 allowed .* unanswered"):
        _collect(served.pool)


def test_a_start_that_cannot_succeed_says_why(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is not a Hugging Face model directory: it has no config\.json"):
        start_pool(engine=engine_settings(model_dir=str(tmp_path))).wait_ready()
