"""What packing saves on a long-tailed mix of lengths: padded as they come, padded by length, packed.

    python jobs/benchmarks/packing.py

All three run forward and backward over the same sequences with the same model and token budget, in one process,
and must give the same loss.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bolt_ray.core.batching import MicroBatchPlan, pack_micro_batches
from bolt_ray.engines.learner.model import PolicyModule, load_policy
from bolt_ray.engines.learner.packing import TokenColumns, build_micro_batch
from bolt_ray.engines.learner.settings import LearnerSettings

CPU = torch.device("cpu")
VOCABULARY = 2048


def make_model() -> PolicyModule:
    """A Qwen2 of some 2.5 million parameters."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    with tempfile.TemporaryDirectory() as directory:
        Qwen2ForCausalLM(config).save_pretrained(directory)
        return load_policy(LearnerSettings(model_path=directory, reward_width=1.0, seed=0), dtype=torch.float32)


def long_tailed(count: int, *, longest: int, seed: int) -> NDArray[np.int64]:
    """Log-normal lengths, median about a sixteenth of the longest."""
    rng = np.random.default_rng(seed)
    return np.clip(np.exp(rng.normal(np.log(longest / 16), 1.0, count)), 8, longest).astype(np.int64)


def as_they_come(lengths: NDArray[np.int64], token_budget: int) -> list[MicroBatchPlan]:
    """Neighbors share a micro-batch, padded to its longest."""
    plans: list[MicroBatchPlan] = []
    rows: list[tuple[int, ...]] = []
    longest = 0
    for index, length in enumerate(lengths.tolist()):
        if rows and (len(rows) + 1) * max(longest, length) > token_budget:
            plans.append(MicroBatchPlan(rows=tuple(rows), row_length=longest))
            rows, longest = [], 0
        rows.append((index,))
        longest = max(longest, length)
    return [*plans, MicroBatchPlan(rows=tuple(rows), row_length=longest)]


def train(module: PolicyModule, columns: TokenColumns, plans: Sequence[MicroBatchPlan]) -> tuple[float, float]:
    """(mean log-prob, seconds) of one pass with gradient."""
    module.zero_grad()
    total, start = 0.0, time.perf_counter()
    for plan in plans:
        batch = build_micro_batch(columns, plan, device=CPU)
        logprobs, _ = module(batch.input_ids, batch.position_ids, batch.predict, batch.targets)
        loss = logprobs.sum() / columns.num_completion_tokens
        loss.backward()
        total += float(loss.detach())
    return total, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--token-budget", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, torch {torch.__version__}")

    lengths = long_tailed(args.sequences, longest=args.longest, seed=0)
    rng = np.random.default_rng(1)
    columns = TokenColumns.build(
        rng.integers(0, VOCABULARY, int(lengths.sum())), np.full(args.sequences, 4), lengths - 4
    )
    print(
        f"{args.sequences} sequences, {int(lengths.sum()):,} tokens, lengths {lengths.min()} to {lengths.max()} "
        f"(median {int(np.median(lengths))}), {args.token_budget} tokens per micro-batch\n"
    )
    everything = np.arange(args.sequences)
    ways = {
        "padded, as they come": as_they_come(lengths, args.token_budget),
        "padded, by length": pack_micro_batches(lengths, everything, token_budget=args.token_budget, pack=False),
        "packed": pack_micro_batches(lengths, everything, token_budget=args.token_budget),
    }
    module = make_model()
    results: dict[str, tuple[float, float]] = {}
    for _ in range(args.repeats):
        for way, plans in ways.items():
            loss, seconds = train(module, columns, plans)
            results[way] = (loss, min(seconds, results.get(way, (0.0, np.inf))[1]))
    packed = results["packed"][1]
    print(f"{'':22} {'tokens computed':>15} {'padding':>8} {'seconds':>8} {'× packed':>9} {'mean log p':>11}")
    for way, (loss, seconds) in results.items():
        computed = sum(plan.tokens_computed for plan in ways[way])
        padding = 1.0 - int(lengths.sum()) / computed
        print(f"{way:22} {computed:15,} {padding:8.1%} {seconds:8.2f} {seconds / packed:9.2f} {loss:11.6f}")


if __name__ == "__main__":
    main()
