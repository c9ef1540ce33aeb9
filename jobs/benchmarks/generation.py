"""How fast a small model generates, what each setting costs, and how long a weight update takes.

    OMP_NUM_THREADS=1 python jobs/benchmarks/generation.py

Everything runs side by side in one process and one run; the ratios are to be compared, not the absolute numbers.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import ray
import torch

from bolt_ray.actors.generator_pool import GeneratorPool
from bolt_ray.actors.generator_resources import GeneratorResources
from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.core.records import GenerationRequest
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.vllm.engine import VLLMEngine
from bolt_ray.engines.vllm.settings import EngineSettings, GeneratorSettings
from bolt_ray.engines.weight_buckets import pack_buckets
from bolt_ray.tasks.tiny.model import create_model, save_model
from bolt_ray.tasks.tiny.settings import TinyModelSettings

PROMPT_TOKENS = 12


def requests(count: int, *, start: int) -> list[GenerationRequest]:
    """Random prompts; every call must be given ids of its own."""
    rng = np.random.default_rng(start)
    return [
        GenerationRequest(
            request_id=request_id,
            kind="train",
            token_ids=rng.integers(5, 30, size=PROMPT_TOKENS, dtype=np.int32),
            seed=request_id,
        )
        for request_id in range(start, start + count)
    ]


def engine_speed(engine: VLLMEngine, sampling: SamplingSettings, *, count: int, start: int) -> float:
    """Tokens per second of ``count`` requests, from nothing to the last token."""
    batch = requests(count, start=start)
    begin, tokens = time.perf_counter(), 0
    engine.add(batch, sampling)
    while engine.num_unfinished:
        tokens += sum(len(completion.token_ids) for completion in engine.step())
    return tokens / (time.perf_counter() - begin)


def pool_speed(pool: GeneratorPool, sampling: SamplingSettings, *, count: int, start: int) -> float:
    """The same through Ray."""
    batch = requests(count, start=start)
    begin, tokens = time.perf_counter(), 0
    pool.submit(batch, sampling)
    while pool.outstanding:
        tokens += sum(len(completion.token_ids) for completion in pool.poll(1.0))
    return tokens / (time.perf_counter() - begin)


def transformers_speed(model: torch.nn.Module, sampling: SamplingSettings, *, count: int, start: int) -> float:
    """``model.generate`` on the same prompts as one batch; tokens after the end of a sequence do not count."""
    prompts = torch.from_numpy(np.stack([r.token_ids for r in requests(count, start=start)])).long()
    begin = time.perf_counter()
    out = model.generate(  # type: ignore[operator]
        prompts,
        attention_mask=torch.ones_like(prompts),
        max_new_tokens=sampling.max_new_tokens,
        do_sample=True,
        top_k=0,
    )
    elapsed = time.perf_counter() - begin
    new = out[:, PROMPT_TOKENS:]
    ended = (new == model.generation_config.eos_token_id).int().cumsum(1)  # type: ignore[union-attr]
    return float((ended.cumsum(1) <= 1).sum()) / elapsed


def variants(
    model: torch.nn.Module, model_dir: str, arguments: argparse.Namespace
) -> dict[str, Callable[[int], float]]:
    """Everything measured, by name: a function from the first request id to tokens per second."""
    count, sampling = arguments.requests, SamplingSettings(max_new_tokens=arguments.tokens)
    nucleus = SamplingSettings(max_new_tokens=arguments.tokens, top_p=0.95)
    generator = GeneratorSettings(max_num_seqs=count, kv_cache_gib=1 / 16)
    settings = EngineSettings(
        model_dir=model_dir,
        dtype="float32",
        generator=generator,
        max_model_len=128,
        on_gpu=False,
        tensor_parallel_size=1,
        seed=0,
    )
    engine = VLLMEngine(settings, sampling=sampling)
    narrow = VLLMEngine(replace(settings, generator=replace(generator, max_num_seqs=count // 4)), sampling=sampling)
    pool = GeneratorPool(
        cluster=ClusterSettings(max_generator_replacements=0),
        engine=settings,
        sampling=sampling,
        resources=GeneratorResources(num_cpus=1.0, num_gpus=0.0, num_threads=1),
        startup_s=600.0,
        stall_s=600.0,
    )
    pool.wait_ready()
    update_times(engine, model)
    return {
        "engine": lambda start: engine_speed(engine, sampling, count=count, start=start),
        "engine, top_p 0.95": lambda start: engine_speed(engine, nucleus, count=count, start=start),
        "engine, a quarter at a time": lambda start: engine_speed(narrow, sampling, count=count, start=start),
        "generator actor": lambda start: pool_speed(pool, sampling, count=count, start=start),
        "Transformers generate": lambda start: transformers_speed(model, sampling, count=count, start=start),
    }


def update_times(engine: VLLMEngine, model: torch.nn.Module, repeats: int = 20) -> None:
    """Print the medians of packing, loading and probing."""
    columns: dict[str, list[float]] = {"pack": [], "load": [], "probe": []}
    for version in range(1, repeats + 1):
        begin = time.perf_counter()
        manifest, buckets = pack_buckets(model.named_parameters(), bucket_bytes=256 << 20, version=version)
        packed = time.perf_counter()
        engine.update_weights(manifest, buckets, version)
        loaded = time.perf_counter()
        engine.score([list(range(5, 30))] * 2)
        probed = time.perf_counter()
        for name, value in zip(columns, (packed - begin, loaded - packed, probed - loaded), strict=True):
            columns[name].append(value)
    times = ", ".join(f"{name} {1e3 * statistics.median(values):.1f} ms" for name, values in columns.items())
    print(f"weight update of {manifest.num_bytes / 1e6:.1f} MB, median of {repeats}: {times}\n")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny", choices=["tiny", "small", "medium", "large"])
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args(argv)
    model, tokenizer = create_model(TinyModelSettings(size=arguments.size, tie_embeddings=True), seed=0)
    million = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} thread(s), torch {torch.__version__}")
    print(f"{million:.2f} M parameters, {arguments.requests} requests of up to {arguments.tokens} tokens\n")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    with tempfile.TemporaryDirectory() as directory:
        save_model(model, tokenizer, Path(directory))
        measured = variants(model, directory, arguments)
        found: dict[str, list[float]] = {name: [] for name in measured}
        # One round after another, so that whatever else the machine does falls on all variants; the first warms up.
        for repeat in range(arguments.repeats + 1):
            for index, (name, speed) in enumerate(measured.items()):
                value = speed((repeat * len(measured) + index) * 10 * arguments.requests)
                if repeat:
                    found[name].append(value)
    reference = statistics.median(found["engine"])
    print(f"{'':30}{'tokens/s':>10}{'ratio':>8}{'s per batch':>13}")
    for name, values in found.items():
        speed_of = statistics.median(values)
        seconds = arguments.requests * arguments.tokens / speed_of
        print(f"{name:30}{speed_of:10.0f}{speed_of / reference:8.2f}{seconds:13.2f}")
    ray.shutdown()


if __name__ == "__main__":
    main()
