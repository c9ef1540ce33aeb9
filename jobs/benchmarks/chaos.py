"""Trainings whose processes are killed in every phase, and what is left of them afterwards.

A tiny model learns to write small digits while its generators, scorers, shards, ranks, mailbox, driver, whole nodes, or
all of it at once, get SIGKILL. Then steps, versions, every single request, the baseline and the accuracy must be those
of a training without kills; at staleness 0 also every completion and the weights. What is done is kept: the same
command goes on where it was interrupted.

    python jobs/benchmarks/chaos.py --out runs/chaos
    python jobs/benchmarks/chaos.py --out runs/chaos --only rank --staleness 0 --phases training,syncing
    python jobs/benchmarks/chaos.py --out runs/chaos --report      # a table of what is done
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psutil
from chaos_checks import Check, check_run
from chaos_run import PHASES, kill_now, processes_below, read_lines, write_plan
from chaos_scenarios import TARGETS, Scenario, scenarios, tiny_model, write_config

STALENESS = (0, 2)
FIRST_KILL = 2
"""Steps finished before it."""
LONGEST_S = 3600.0
"""Of one training with its kills."""


def run_scenario(scenario: Scenario, out: Path) -> list[Check]:
    """The checks of a training; it is done now if it was not yet."""
    directory = out / scenario.name
    done = directory / "checks.json"
    if not done.exists():
        problem = "" if (directory / "run" / "final").exists() else train_scenario(scenario, directory, out)
        checks = [Check(name="ended", right=not problem, found=problem)]
        if not problem:
            kills, recovered = (len(read_lines(directory / f"{name}.jsonl")) for name in ("kills", "recovered"))
            wanted = len(scenario.kills)
            checks.append(
                Check(
                    name="kills",
                    right=kills == recovered == wanted,
                    found=f"{kills} of {wanted}, {recovered} of them recovered from",
                )
            )
            reference = None if scenario.target is None else out / f"reference-{scenario.staleness}"
            checks += check_run(directory, reference=reference, exact=scenario.staleness == 0)
        if not all(check.right for check in checks):
            return checks  # not kept: the same command does it again
        done.write_text(json.dumps([asdict(check) for check in checks]), encoding="utf-8")
        for name in ("store", "run/ray_train"):
            shutil.rmtree(directory / name, ignore_errors=True)
    return [Check(**check) for check in json.loads(done.read_text(encoding="utf-8"))]


def train_scenario(scenario: Scenario, directory: Path, out: Path) -> str:
    """Do it from its beginning; what went wrong, or nothing."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    with nodes(scenario) as (address, replace_nodes):
        write_config(directory, scenario, model=tiny_model(out), address=address)
        root = None if address is None else os.getpid()
        write_plan(directory, scenario.kills, first_step=FIRST_KILL, root=root)
        return train_on(directory, each_second=replace_nodes)


def train_on(directory: Path, *, each_second: Callable[[], None]) -> str:
    """Start the training, and again whenever it was killed; what went wrong, or nothing."""
    command = [sys.executable, str(Path(__file__).with_name("chaos_run.py")), str(directory)]
    deadline = time.monotonic() + LONGEST_S
    while True:
        with (directory / "output.txt").open("a", encoding="utf-8") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                while process.poll() is None:
                    if time.monotonic() > deadline:
                        return f"took longer than {LONGEST_S:.0f} s; see {output.name}"
                    each_second()
                    time.sleep(1.0)
            finally:
                if process.poll() is None:
                    kill_now([*(pid for pid, _ in processes_below(process.pid)), process.pid])
        if process.returncode == 0:
            return ""
        if process.returncode != -signal.SIGKILL:
            return f"exit code {process.returncode}: {last_line(directory / 'output.txt')}"
        wait_until_gone(directory)


def wait_until_gone(directory: Path) -> None:
    """What a killed driver leaves behind must end by itself."""
    (*_, last) = read_lines(directory / "kills.jsonl")
    deadline = time.monotonic() + 60.0
    while left := [pid for pid in last["orphans"] if lives(pid)]:
        assert time.monotonic() < deadline, f"still there after a minute: {left}"
        time.sleep(0.5)


def lives(pid: int) -> bool:
    """Whether there is such a process; one that only waits for its parent to look is none."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def last_line(path: Path) -> str:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return lines[-1] if lines else ""


@contextmanager
def nodes(scenario: Scenario) -> Iterator[tuple[str | None, Callable[[], None]]]:
    """Where the training runs: three nodes for kills of nodes, else a Ray of its own.

    Yields:
        its address, and what brings up a new node for each that is gone.
    """
    if scenario.target != "node":
        yield None, lambda: None
        return
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=3)

    def replace_dead() -> None:
        for node in list(cluster.worker_nodes):
            if node.dead_processes():
                cluster.remove_node(node, allow_graceful=False)
                cluster.add_node(num_cpus=3)

    try:
        yield cluster.address, replace_dead
    finally:
        cluster.shutdown()


def write_tables(out: Path) -> None:
    """``kills.csv``: one row for each kill so far."""
    rows = []
    for directory in sorted(out.iterdir()):
        recovered = {record["number"]: record for record in read_lines(directory / "recovered.jsonl")}
        for killed in read_lines(directory / "kills.jsonl"):
            after = recovered.get(killed["number"])
            rows.append(
                {
                    "training": directory.name,
                    "kill": killed["number"] + 1,
                    "killed": killed["target"],
                    "processes": len(killed["pids"]),
                    "phase": killed["phase"],
                    "driver was at": killed["during"],
                    "step": killed["step"] + 1,
                    "next step done after s": "" if after is None else round(after["seconds"], 1),
                }
            )
    if rows:
        with (out / "kills.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


def report(out: Path) -> None:
    """A row for each training: its kills, how long until the next step was done, and what was found."""
    print("| killed | staleness | kills | next step done after, median | longest | checks |")
    print("|---|---:|---:|---:|---:|---|")
    for directory in sorted(path for path in out.iterdir() if (path / "kills.jsonl").exists()):
        seconds = [record["seconds"] for record in read_lines(directory / "recovered.jsonl")]
        target, _, staleness = directory.name.rpartition("-")
        checks = directory / "checks.json"
        said = ", ".join(check["name"] for check in json.loads(checks.read_text())) if checks.exists() else "not passed"
        times = f"{statistics.median(seconds):.1f} s | {max(seconds):.1f} s" if seconds else "– | –"
        print(f"| {target} | {staleness} | {len(read_lines(directory / 'kills.jsonl'))} | {times} | {said} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where trainings are kept")
    parser.add_argument("--only", default=",".join(TARGETS), help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--staleness", default=",".join(map(str, STALENESS)))
    parser.add_argument("--phases", default=",".join(PHASES), help=f"of {', '.join(PHASES)}")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps of each training")
    parser.add_argument("--report", action="store_true", help="print a table of what is done, and train nothing")
    arguments = parser.parse_args()
    out = arguments.out.absolute()
    if arguments.report:
        report(out)
        return 0
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    chosen = scenarios(
        arguments.only.split(","),
        [int(versions) for versions in arguments.staleness.split(",")],
        arguments.phases.split(","),
        arguments.steps,
    )
    for scenario in chosen:
        started = time.monotonic()
        checks = run_scenario(scenario, out)
        write_tables(out)
        wrong = [check for check in checks if not check.right]
        failed += bool(wrong)
        print(f"{scenario.name}: {len(scenario.kills)} kills, {time.monotonic() - started:.0f} s")
        for check in checks:
            print(f"  {'right' if check.right else 'WRONG'} {check.name}: {check.found}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
