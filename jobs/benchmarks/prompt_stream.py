"""The prompt stream on stores of very different sizes, and the memory an ingest takes.

    python jobs/benchmarks/prompt_stream.py stream --rows 10_000 1_000_000 10_000_000
    python jobs/benchmarks/prompt_stream.py ingest --mib 2048 --cap-mib 1024

``stream`` draws and reads windows of 2,560 prompts; reading should cost the same whatever the store holds.
``ingest`` reads a JSONL file larger than the cap and fails if the processes together grow beyond the cap.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from bolt_ray.core.records import Prompt
from bolt_ray.data.ingest.build import build_store, rejects_path, sidecar_path
from bolt_ray.data.ingest.finish import finish_store
from bolt_ray.data.ingest.normalize import row_rules
from bolt_ray.data.ingest.read_plan import Piece, ReadPlan, ReadUnit
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.data.store import PromptStore
from bolt_ray.data.store_files import PART_SCHEMA, PartWriter, part_path, write_json
from bolt_ray.data.stream.draw_log import draw_indices, window_rng
from bolt_ray.data.stream.stream import PromptStream

WINDOW = 2560
ROWS_PER_PART = 500_000
TEXT = "A shop sells apples, pears and plums. How many are left after day {}? "


def characters(prompts: Sequence[Prompt]) -> list[NDArray[np.int32]]:
    """One token a byte: the benchmark is of the stream, not of a tokenizer."""
    return [np.frombuffer(str(prompt.prompt).encode(), np.uint8).astype(np.int32) for prompt in prompts]


def synthetic_store(directory: Path, num_rows: int) -> PromptStore:
    """A store of distinct prompts of about 150 characters, written without reading any dataset."""
    directory.mkdir(parents=True)
    starts = range(0, num_rows, ROWS_PER_PART)
    for number, start in enumerate(starts):
        stop = min(num_rows, start + ROWS_PER_PART)
        write_part(directory, number, start, stop)
    piece = Piece(path="synthetic", format="jsonl")
    plan = ReadPlan(
        sources=("synthetic",),
        rules=(row_rules(DatasetSettings(name="x.jsonl"), preset=None, max_prompt_chars=1_000_000),),
        drop_duplicates=(True,),
        units=tuple(ReadUnit(number=number, source=0, pieces=(piece,)) for number in range(len(starts))),
        address=f"synthetic-{num_rows}",
    )
    finish_store(plan, directory, skip_bad_rows=False)
    return PromptStore.open(directory)


def write_part(directory: Path, number: int, start: int, stop: int) -> None:
    count = stop - start
    numbers = pa.array(np.arange(start, stop))
    names = numbers.cast(pa.string())
    prompts = pc.binary_join_element_wise('"', TEXT * 2, names, '"', "")
    hashes = np.random.default_rng(number).integers(0, 2**63, count, dtype=np.uint64)
    columns = {
        "key": pc.utf8_lpad(names, 32, "0"),
        "key_hash": pa.array(hashes),
        "has_id": pa.array(np.zeros(count, np.bool_)),
        "prompt": prompts,
        "answer": names,
        "metadata": pa.array(["{}"] * count),
        "piece": pa.array(np.zeros(count, np.int32)),
        "line": numbers,
        "record": numbers,
    }
    writer = PartWriter(part_path(directory, number))
    writer.write(pa.table(columns).cast(PART_SCHEMA))
    writer.finish()
    rejects_path(directory, number).touch()
    sidecar = {"source": 0, "rows": count, "records": count, "rejected": {}, "filtered": {}}
    write_json(sidecar_path(directory, number), {**sidecar, "pieces": [["synthetic", "jsonl"]]})


def bench_stream(sizes: Sequence[int], windows: int) -> None:
    """One line per store size; the ratio is to the first size."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    columns = ("open", "draw", "draw/M", "window", "first")
    print(f"{'rows':>12} {'make store':>11}" + "".join(f" {column:>9}" for column in columns) + f" {'ratio':>6}")
    reference = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for num_rows in sizes:
            home = Path(scratch) / str(num_rows)
            begin = time.perf_counter()
            synthetic_store(home, num_rows)
            made = time.perf_counter() - begin
            begin = time.perf_counter()
            store = PromptStore.open(home)
            opened = time.perf_counter() - begin
            drawing = median_draw(num_rows)
            first, whole = time_windows(store, Path(scratch) / f"draws-{num_rows}", windows)
            reference = reference or whole
            print(
                f"{num_rows:>12,} {made:>10.1f}s {opened * 1e3:>7.1f}ms {drawing * 1e3:>7.1f}ms "
                f"{drawing * 1e9 / num_rows:>7.2f}ms {whole * 1e3:>7.0f}ms "
                f"{first * 1e3:>7.0f}ms {whole / reference:>6.2f}"
            )
    ray.shutdown()


def median_draw(num_rows: int) -> float:
    """Seconds to draw a window from weights that are at hand."""
    weights = np.random.default_rng(0).random(num_rows) + 0.05
    taken = []
    for window in range(5):
        begin = time.perf_counter()
        draw_indices(weights, size=min(WINDOW, num_rows), rng=window_rng(0, window))
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def time_windows(store: PromptStore, draws_dir: Path, windows: int) -> tuple[float, float]:
    """Median seconds to a window's first prompt and to its last, drawing left out; two warm-up windows."""
    stream = PromptStream(
        store=store,
        tokenize=characters,
        window_size=WINDOW,
        distinct_draws=WINDOW,
        draws_dir=draws_dir,
        seed=0,
        num_samples=1,
        max_prompt_tokens=1024,
        on_long_prompt="error",
        stall_timeout_s=600.0,
    )
    firsts, wholes = [], []
    for _ in range(windows + 2):
        # The draw happens here and its reading begins; reading is what is timed.
        if stream.position == (0, 0):
            stream.take(WINDOW)
        stream.prefetch_next()
        begin = time.perf_counter()
        stream.take(1)
        firsts.append(time.perf_counter() - begin)
        stream.take(WINDOW - 1)
        wholes.append(time.perf_counter() - begin)
    stream.close()
    return statistics.median(firsts[2:]), statistics.median(wholes[2:])


class MemoryWatch:
    """Peak of the memory of this process and all it started: anonymous and shared pages, each counted once."""

    def __init__(self) -> None:
        self.peak_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.2):
            self.peak_mib = max(self.peak_mib, family_mib())


def family_mib() -> float:
    """Proportional set sizes without file-backed pages, which the kernel may drop at any time."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    family, grown = {os.getpid()}, True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in family} - family
        family |= children
        grown = bool(children)
    total = 0
    for pid in family:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon", "Pss_Shmem")))
    return total / 1024


def store_of(path: Path, store_dir: Path) -> PromptStore:
    return build_store(
        [DatasetSettings(name=str(path))],
        store_dir=store_dir,
        on_bad_row="error",
        max_prompt_chars=1_000_000,
        stall_timeout_s=600.0,
    )


def bench_ingest(mib: int, cap_mib: int) -> bool:
    """True if the peak stayed under the cap."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "large.jsonl"
        rows = write_large(path, mib << 20)
        small = Path(scratch) / "small.jsonl"
        write_large(small, 1 << 20)
        store_of(small, Path(scratch) / "stores")
        idle = family_mib()
        watch = MemoryWatch()
        begin = time.perf_counter()
        store = store_of(path, Path(scratch) / "stores")
        taken = time.perf_counter() - begin
        watch.close()
        assert store.num_rows == rows
    ray.shutdown()
    grown = watch.peak_mib - idle
    print(
        f"dataset {mib:,} MiB, {rows:,} rows; cap {cap_mib:,} MiB for all processes together, "
        f"above the {idle:,.0f} MiB of the idle cluster"
    )
    print(f"ingest {taken:.1f} s ({mib / taken:.0f} MiB/s, {rows / taken:,.0f} rows/s)")
    print(f"peak {watch.peak_mib:,.0f} MiB in all, {grown:,.0f} above idle: {grown / mib:.2f} of the dataset")
    return grown <= cap_mib


def write_large(path: Path, size: int) -> int:
    """A JSONL file of distinct prompts, about 1 kB each; returns its rows."""
    filler = "word " * 180
    rows = 0
    with path.open("w", encoding="utf-8") as stream:
        while stream.tell() < size:
            stream.writelines(
                json.dumps({"prompt": f"{number} {filler}", "answer": str(number)}) + "\n"
                for number in range(rows, rows + 1000)
            )
            rows += 1000
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    stream = commands.add_parser("stream")
    stream.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    stream.add_argument("--windows", type=int, default=9)
    ingest = commands.add_parser("ingest")
    ingest.add_argument("--mib", type=int, default=2048)
    ingest.add_argument("--cap-mib", type=int, default=1024)
    options = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    print(
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, Ray {ray.__version__}, "
        f"load {os.getloadavg()[0]:.1f}"
    )
    if options.command == "stream":
        bench_stream(options.rows, options.windows)
        return 0
    return 0 if bench_ingest(options.mib, options.cap_mib) else 1


if __name__ == "__main__":
    sys.exit(main())
