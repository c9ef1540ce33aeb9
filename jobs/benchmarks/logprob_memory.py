"""Peak memory and time of log-probs with their gradient: in chunks against whole logits.

    python jobs/benchmarks/logprob_memory.py

Each way runs in a process of its own, so that peaks do not hide each other. What is measured is what the pass
adds to hidden states and output weight: logits, probabilities, gradients. On a GPU it is the allocator's peak, on
a CPU the growth of the process's largest resident size.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import time
from multiprocessing.connection import Connection

import torch

from bolt_ray.engines.learner.logprobs import chunked_logprobs

WAYS = ("whole logits", "whole logits, entropy", "chunked, entropy")


def measure(way: str, tokens: int, vocabulary: int, hidden_size: int, pipe: Connection) -> None:
    """Send (bytes, seconds) of one forward and backward pass."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, hidden_size, generator=generator).to(device).requires_grad_()
    weight = (0.02 * torch.randn(vocabulary, hidden_size, generator=generator)).to(device).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator).to(device)
    run(way, hidden[:8], weight[:64], targets[:8] % 64)  # libraries load their kernels outside the measurement
    before = peak_bytes(device)
    start = time.perf_counter()
    run(way, hidden, weight, targets)
    pipe.send((peak_bytes(device) - before, time.perf_counter() - start))


def run(way: str, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> None:
    """Forward and backward of Σ log p (+ 0.01 Σ entropy)."""
    if way == "chunked, entropy":
        logprobs, entropy = chunked_logprobs(hidden, weight, targets)
        torch.autograd.backward(logprobs.sum() + 0.01 * entropy.sum())
        return
    logp = torch.log_softmax((hidden @ weight.T).float(), dim=-1)
    loss = logp.gather(1, targets[:, None]).sum()
    if way == "whole logits, entropy":
        loss = loss - 0.01 * (logp.exp() * logp).sum()
    torch.autograd.backward(loss)


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB. The peak before the pass is that of building the inputs: it is held through the pass.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--hidden-size", type=int, default=256)
    args = parser.parse_args()

    where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    print(f"{where}, {os.cpu_count()} CPUs, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{args.tokens} tokens, vocabulary {args.vocabulary:,}, hidden size {args.hidden_size}, float32\n")
    context = multiprocessing.get_context("spawn")
    results: dict[str, tuple[int, float]] = {}
    for way in WAYS:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=measure, args=(way, args.tokens, args.vocabulary, args.hidden_size, sender))
        process.start()
        sender.close()
        results[way] = receiver.recv()
        process.join()
    chunked = results["chunked, entropy"]
    print(f"{'':24} {'peak MiB':>9} {'× chunked':>10} {'seconds':>8}")
    for way, (peak, seconds) in results.items():
        print(f"{way:24} {peak / 2**20:9.0f} {peak / chunked[0]:10.1f} {seconds:8.2f}")


if __name__ == "__main__":
    main()
