"""Half an hour of a real training: does anything grow?

Every ten seconds: private memory, open files and threads of every process, and what Ray's object store holds. Growth
is the slope of a line through the samples after a warm-up. The training is that of ``chaos.py``, without kills and
never done; with ``--kills`` a generator gets SIGKILL every so many seconds.

    python jobs/benchmarks/soak.py --out runs/soak --minutes 30
    python jobs/benchmarks/soak.py --out runs/soak --report       # of what is there
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import ray
from chaos_run import PHASES, TITLES, kill_now, processes_below
from chaos_scenarios import Scenario, tiny_model, write_config

EVERY_S = 10.0
WARM_UP = 0.25
"""Share of the samples that are left out."""
COLUMNS = ("seconds", "process", "private_mb", "open_files", "threads")
ROLES = {title: role for role, title in TITLES.items()} | {
    "ray::TrainController": "train controller",
    "raylet": "raylet",
    "gcs_server": "gcs",
}
UNITS = {"private_mb": "MB", "open_files": "files", "threads": "threads"}
GROWS = {"private_mb": 60.0, "open_files": 10.0, "threads": 5.0}
"""An hour; more than this is said to grow."""


def role_of(command: str) -> str | None:
    """What a process of the run is called here; None for what Ray starts beside it."""
    if "chaos_run" in command or "bolt_ray.cli" in command:
        return "driver"
    first = command.split(" ", 1)[0].rsplit("/", 1)[-1]
    for title, role in ROLES.items():
        if first.startswith(title):
            return role
    return None


def sample(root: int, names: dict[int, str]) -> Iterator[tuple[str, float, int, int]]:
    """(name, private MB, open files, threads) of each process; a new one of a role gets the next number."""
    for pid, command in processes_below(root):
        role = role_of(command)
        if role is None:
            continue
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if pid not in names:
                names[pid] = f"{role} {sum(name.startswith(role) for name in names.values())}"
            yield names[pid], process.memory_full_info().uss / 1e6, process.num_fds(), process.num_threads()


def object_store_mb() -> float:
    """What all nodes' object stores hold, spilled objects left out."""
    from ray._private.internal_api import node_stats

    held = 0
    for node in ray.nodes():
        if node["Alive"]:
            stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
            held += stats.store_stats.object_store_bytes_used
    return held / 1e6


def soak(out: Path, *, minutes: float, staleness: int, kills_every_s: float | None) -> None:
    """Train for so long, and write ``samples.csv``."""
    directory = out / "training"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (out / "samples.csv").unlink(missing_ok=True)
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    scenario = Scenario(target="generator", staleness=staleness, phases=tuple(PHASES), steps=1_000_000)
    write_config(directory, scenario, model=tiny_model(out), address=ray.get_runtime_context().gcs_address)
    settings = ["eval.every_steps=50", "checkpoint.every_steps=50", "samples.max_mb=20"]
    command = [sys.executable, "-m", "bolt_ray.cli", "train", str(directory / "config.yaml"), *settings]
    names: dict[int, str] = {}
    chance = random.Random(0)
    killed_at = started = time.monotonic()
    with (directory / "output.txt").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            while (seconds := time.monotonic() - started) < 60 * minutes:
                if process.poll() is not None:
                    raise SystemExit(f"the training ended by itself after {seconds:.0f} s; see {output.name}")
                at = f"{seconds:.0f}"
                of_processes = sample(os.getpid(), names)
                rows: list[tuple[object, ...]] = [
                    (at, name, f"{mb:.1f}", *counts) for name, mb, *counts in of_processes
                ]
                append(out / "samples.csv", [*rows, (at, "object store", f"{object_store_mb():.2f}", "", "")])
                if kills_every_s is not None and time.monotonic() - killed_at > kills_every_s:
                    killed_at = time.monotonic()
                    found = [
                        pid for pid, command in processes_below(os.getpid()) if command.startswith("ray::Generator")
                    ]
                    kill_now(chance.sample(found, k=min(1, len(found))))
                time.sleep(max(0.0, EVERY_S - (time.monotonic() - started - seconds)))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
            ray.shutdown()


def append(path: Path, rows: list[tuple[object, ...]]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(COLUMNS)
        writer.writerows(rows)


def report(out: Path) -> int:
    """A table of what each process had at the beginning and at the end, and its slope; 1 if anything grows."""
    series: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    with (out / "samples.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for column in UNITS:
                if row[column]:
                    series[row["process"], column].append((float(row["seconds"]), float(row[column])))
    last = max(points[-1][0] for points in series.values())
    print(
        f"{last / 60:.0f} minutes, the first {100 * WARM_UP:.0f} % left out; slopes are per hour, ± 2 standard errors"
    )
    print("| process | what | first | last | slope |")
    print("|---|---|---:|---:|---:|")
    grown = 0
    for (process, column), points in sorted(series.items()):
        kept = [(at, value) for at, value in points if at >= WARM_UP * last]
        if len(kept) < 10:
            continue
        slope, error = slope_per_hour(kept)
        grows = slope - 2 * error > GROWS[column]
        grown += grows
        what, said = column.replace("_", " "), f"{UNITS[column]}{' **grows**' if grows else ''}"
        print(f"| {process} | {what} | {kept[0][1]:g} | {kept[-1][1]:g} | {slope:+.1f} ± {2 * error:.1f} {said} |")
    return min(1, grown)


def slope_per_hour(points: list[tuple[float, float]]) -> tuple[float, float]:
    """Of the least-squares line through (seconds, value), with its standard error."""
    hours, values = (np.array(column) for column in zip(*points, strict=True))
    hours = hours / 3600.0
    spread = float(np.sum((hours - hours.mean()) ** 2))
    slope = float(np.sum((hours - hours.mean()) * (values - values.mean())) / spread)
    left = values - values.mean() - slope * (hours - hours.mean())
    return slope, float(np.sqrt(np.sum(left**2) / (len(points) - 2) / spread))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where samples and the training are kept")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--staleness", type=int, default=1)
    parser.add_argument("--kills", type=float, help="seconds between two kills of a generator; default: none")
    parser.add_argument("--report", action="store_true", help="of the samples that are there, and train nothing")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        soak(out, minutes=arguments.minutes, staleness=arguments.staleness, kills_every_s=arguments.kills)
    return report(out)


if __name__ == "__main__":
    sys.exit(main())
