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
from pathlib import Path

import numpy as np
import ray
import torch

from bolt_ray.actors.generators import GeneratorPool, GeneratorResources
from bolt_ray.core.records import DrawnPrompt, Prompt, RolloutRequest
from bolt_ray.engines.vllm_engine import EngineSettings, SamplingSettings, VLLMEngine
from bolt_ray.engines.weights import pack_buckets
from bolt_ray.tasks.arithmetic.model import ModelSettings, create_model, save_model

PROMPT_TOKENS = 12


def requests(count: int, *, start: int) -> list[RolloutRequest]:
    """Random prompts; every call must be given ids of its own."""
    rng = np.random.default_rng(start)
    return [
        RolloutRequest(
            request_id=request_id,
            drawn=DrawnPrompt(
                draw_id=request_id,
                prompt=Prompt(row=request_id, key=str(request_id), prompt=""),
                token_ids=rng.integers(5, 30, size=PROMPT_TOKENS, dtype=np.int32),
            ),
            sample_index=0,
            v_hat=0.5,
            n_eff=1.0,
            policy_version=0,
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
    prompts = torch.from_numpy(np.stack([r.drawn.token_ids for r in requests(count, start=start)])).long()
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
    ended = (new == model.generation_config.eos_token_id).int().cumsum(1)  # type: ignore[union-attr, operator]
    return float((ended.cumsum(1) <= 1).sum()) / elapsed


def median(measure: Callable[[int], float], *, repeats: int, start: int) -> float:
    """The median of ``repeats`` measurements after one that warms up; each gets request ids of its own."""
    measure(start)
    return statistics.median(measure(start + 10_000 * (1 + repeat)) for repeat in range(repeats))


def speeds(model: torch.nn.Module, model_dir: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Tokens per second of every variant, by its name."""
    count, seeded = arguments.requests, SamplingSettings(max_new_tokens=arguments.tokens)
    plain = SamplingSettings(max_new_tokens=arguments.tokens, seeded=False)
    nucleus = SamplingSettings(max_new_tokens=arguments.tokens, top_p=0.95)
    found: dict[str, float] = {}

    def measure(name: str, speed: Callable[[int], float]) -> None:
        found[name] = median(speed, repeats=arguments.repeats, start=1_000_000 * (len(found) + 1))

    settings = EngineSettings(model_dir=model_dir, max_model_len=128, max_num_seqs=count)
    engine = VLLMEngine(settings, sampling=seeded)
    measure("engine, seeded", lambda start: engine_speed(engine, seeded, count=count, start=start))
    measure("engine, without seeds", lambda start: engine_speed(engine, plain, count=count, start=start))
    measure("engine, seeded, top_p 0.95", lambda start: engine_speed(engine, nucleus, count=count, start=start))
    update_times(engine, model)
    engine.close()
    for name, changed in (
        ("engine, prefix caching", EngineSettings(model_dir=model_dir, max_model_len=128, prefix_caching=True)),
        ("engine, 64 at a time", EngineSettings(model_dir=model_dir, max_model_len=128, max_num_seqs=64)),
    ):
        other = VLLMEngine(changed, sampling=seeded)
        measure(name, lambda start, other=other: engine_speed(other, seeded, count=count, start=start))  # type: ignore[misc]
        other.close()
    measure("Transformers generate", lambda start: transformers_speed(model, seeded, count=count, start=start))
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    pool = GeneratorPool.start(num_generators=1, engine=settings, sampling=seeded, resources=GeneratorResources())
    measure("generator actor", lambda start: pool_speed(pool, seeded, count=count, start=start))
    pool.close()
    ray.shutdown()
    return found


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
        for name, value in zip(columns, (packed - begin, loaded - packed, time.perf_counter() - loaded), strict=True):
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
    model, tokenizer = create_model(ModelSettings(size=arguments.size, tie_embeddings=True), seed=0)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    )
    print(f"{count / 1e6:.2f} M parameters, {arguments.requests} requests of up to {arguments.tokens} tokens\n")
    with tempfile.TemporaryDirectory() as directory:
        save_model(model, tokenizer, Path(directory))
        found = speeds(model, directory, arguments)
    reference = found["engine, seeded"]
    print(f"{'':30}{'tokens/s':>10}{'ratio':>8}{'s per batch':>13}")
    for name, speed in found.items():
        seconds = arguments.requests * arguments.tokens / speed
        print(f"{name:30}{speed:10.0f}{speed / reference:8.2f}{seconds:13.2f}")


if __name__ == "__main__":
    main()
