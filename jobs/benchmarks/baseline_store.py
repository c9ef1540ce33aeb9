"""Size and speed of the baseline store: in this process, and behind shard actors.

    python jobs/benchmarks/baseline_store.py --prompts 1000000 10000000 --shards 4

For each number of prompts: bytes per prompt, and the time to read and commit a batch of keys. Beside it, in the same
run, a plain dictionary with one small object per prompt and the same arithmetic.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray

from bolt_ray.actors.baseline_shards import BaselineShards
from bolt_ray.core.baseline import BaselineSettings, BaselineStore
from bolt_ray.core.keys import KeyBatch
from bolt_ray.core.records import Outcomes

DIGEST_BYTES = 16
CHUNK = 1 << 18
DICTIONARY_LIMIT = 2_000_000
SAMPLES_PER_PROMPT = 4


@dataclass(slots=True)
class PlainTracker:
    """One prompt of the dictionary the store is compared with."""

    alpha: float = 1.0
    beta: float = 1.0
    version: int = 0
    visits: int = 0
    streak: int = 0


def key_batch(digests: NDArray[np.uint64]) -> KeyBatch:
    lengths = np.zeros(digests.shape[0], dtype=np.int32)
    return KeyBatch(digests=digests, text_lengths=lengths, text=np.zeros(0, dtype=np.uint8))


def chunks(digests: NDArray[np.uint64]) -> Iterator[list[str]]:
    for start in range(0, digests.shape[0], CHUNK):
        yield key_batch(digests[start : start + CHUNK]).strings()


def batches(
    digests: NDArray[np.uint64], size: int, rounds: int
) -> Iterator[tuple[list[str], NDArray[np.float64], NDArray[np.int64]]]:
    """Prompts drawn at random, with reward sums and counts."""
    rng = np.random.default_rng(1)
    for _ in range(rounds):
        keys = key_batch(digests[rng.integers(0, digests.shape[0], size=size)]).strings()
        counts = np.full(size, SAMPLES_PER_PROMPT)
        yield keys, rng.integers(0, SAMPLES_PER_PROMPT + 1, size=size).astype(np.float64), counts


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def show(prompts: int, what: str, value: str) -> None:
    print(f"{prompts:>11,}  {what:<52} {value}", flush=True)


def milliseconds(seconds: list[float]) -> str:
    return f"{1e3 * np.median(seconds):8.2f} ms   (95 %: {1e3 * np.quantile(seconds, 0.95):.2f} ms)"


def measure_dictionary(digests: NDArray[np.uint64], size: int, rounds: int) -> tuple[float, float]:
    """(bytes per prompt, median seconds of a batch) of one object per prompt."""
    before = resident_bytes()
    store = {key: PlainTracker() for chunk in chunks(digests) for key in chunk}
    per_prompt = (resident_bytes() - before) / len(store)
    times = []
    for version, (keys, sums, counts) in enumerate(batches(digests, size, rounds)):
        start = time.perf_counter()
        [(t.alpha / (t.alpha + t.beta), t.alpha + t.beta) for t in map(store.__getitem__, keys)]
        for key, total, count in zip(keys, sums.tolist(), counts.tolist(), strict=True):
            tracker = store[key]
            decay = 0.875 ** (version - tracker.version)
            tracker.alpha = decay * tracker.alpha + total
            tracker.beta = decay * tracker.beta + count - total
            tracker.version = version
            tracker.visits += 1
            tracker.streak = tracker.streak + 1 if total == count else 0
        times.append(time.perf_counter() - start)
    milli = milliseconds(times)
    show(len(store), "dictionary of objects: bytes per prompt with its key", f"{per_prompt:8.1f}")
    show(len(store), f"dictionary of objects: read and commit {size:,} keys", milli)
    return per_prompt, float(np.median(times))


def measure_local(digests: NDArray[np.uint64], size: int, rounds: int) -> tuple[float, float]:
    """(bytes per prompt, median seconds of a batch) of a store in this process."""
    n = digests.shape[0]
    store = BaselineStore()
    start = time.perf_counter()
    for chunk in chunks(digests):
        store.register(chunk)
    show(n, "local: register, keys made on the way", f"{time.perf_counter() - start:8.2f} s")
    per_prompt = store.nbytes / n
    show(n, "local: bytes per prompt with its 16-byte digest", f"{per_prompt:8.1f}")
    show(n, "local: bytes per prompt beside the digest", f"{per_prompt - DIGEST_BYTES:8.1f}")
    times = []
    for version, (keys, sums, counts) in enumerate(batches(digests, size, rounds)):
        start = time.perf_counter()
        store.get_many(keys, version)
        store.update_many(keys, sums, counts, versions=version, drift=0.01, update_id=f"step-{version}")
        times.append(time.perf_counter() - start)
    show(n, f"local: read and commit {size:,} keys", milliseconds(times))
    for what, call in (("columns", store.columns), ("metrics", store.totals)):
        start = time.perf_counter()
        call()
        show(n, f"local: {what}", f"{1e3 * (time.perf_counter() - start):8.2f} ms")
    return per_prompt, float(np.median(times))


def measure_full_snapshot(digests: NDArray[np.uint64], directory: Path) -> None:
    """Every prompt with evidence, written and read back."""
    n = digests.shape[0]
    store = BaselineStore()
    ones = np.ones(CHUNK)
    for start in range(0, n, CHUNK):
        part = key_batch(digests[start : start + CHUNK])
        store.seed(part, ones[: len(part)], ones[: len(part)])
    path = directory / "store.npz"
    start_s = time.perf_counter()
    store.save(path)
    megabytes = path.stat().st_size / 2**20
    show(n, "local: save, all tracked", f"{time.perf_counter() - start_s:8.2f} s    ({megabytes:.0f} MiB)")
    start_s = time.perf_counter()
    store.load(path)
    show(n, "local: load, all tracked", f"{time.perf_counter() - start_s:8.2f} s")
    path.unlink()


def measure_shards(digests: NDArray[np.uint64], size: int, rounds: int, num_shards: int, directory: Path) -> float:
    """Median seconds of a batch through shard actors, journal included."""
    n = digests.shape[0]
    name = f"{num_shards} shards"
    shards = BaselineShards.start(
        num_shards=num_shards,
        settings=BaselineSettings(),
        wal_dir=directory / "wal",
        timeout_s=300.0,
        startup_s=300.0,
        cpus_per_shard=0.1,
    )
    start = time.perf_counter()
    shards.register(key for chunk in chunks(digests) for key in chunk)
    show(n, f"{name}: register, keys made on the way", f"{time.perf_counter() - start:8.2f} s")
    reads, commits = [], []
    for version, (keys, sums, counts) in enumerate(batches(digests, size, rounds)):
        outcomes = Outcomes(
            keys=tuple(keys), reward_sums=sums, counts=counts, versions=np.full(len(keys), version, dtype=np.int64)
        )
        start = time.perf_counter()
        shards.read(keys, version)
        middle = time.perf_counter()
        shards.commit(outcomes, update_id=f"step-{version}", drift=0.01)
        reads.append(middle - start)
        commits.append(time.perf_counter() - middle)
    show(n, f"{name}: read {size:,} keys", milliseconds(reads))
    show(n, f"{name}: commit {size:,} keys, fsynced", milliseconds(commits))
    for what, call in (("columns of every row", shards.columns), ("metrics", shards.metrics)):
        start = time.perf_counter()
        call()
        show(n, f"{name}: {what}", f"{1e3 * (time.perf_counter() - start):8.2f} ms")
    start = time.perf_counter()
    shards.snapshot(directory / f"snapshot-{n}")
    show(n, f"{name}: snapshot", f"{time.perf_counter() - start:8.2f} s")
    shards.close()
    return float(np.median(np.add(reads, commits)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--shards", type=int, default=4, help="0 leaves the actors out")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, numpy {np.__version__}")
    ratios: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        if options.shards:
            ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False, address="local")
        for n in options.prompts:
            digests = np.random.default_rng(0).integers(0, 2**64, size=(n, 2), dtype=np.uint64)
            local_bytes, local_s = measure_local(digests, options.batch, options.rounds)
            measure_full_snapshot(digests, Path(scratch))
            if n <= DICTIONARY_LIMIT:
                plain_bytes, plain_s = measure_dictionary(digests, options.batch, options.rounds)
                ratios.append(
                    f"{n:>11,}  dictionary / store: bytes {plain_bytes / local_bytes:.2f}, time {plain_s / local_s:.2f}"
                )
            if options.shards:
                sharded_s = measure_shards(digests, options.batch, options.rounds, options.shards, Path(scratch))
                ratios.append(f"{n:>11,}  {options.shards} shards / local store: time {sharded_s / local_s:.2f}")
    print("ratios\n" + "\n".join(ratios))


if __name__ == "__main__":
    main()
