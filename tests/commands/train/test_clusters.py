"""A training on a cluster whose nodes come and go: nothing is lost, nothing trained twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos_checks import LARGEST_GAP, check_accounting
from chaos_run import read_lines, write_plan
from support.clusters import Nodes, cluster_of_nodes
from support.training_runs import steps_of, wait_for_step, write_run_config

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.slow]

HEAD_CPUS, GENERATOR_CPUS = 3, 4
"""A generator does not fit on the head: each needs a node of its own, and the head has room for the rest."""


class Training:
    """A training in a process of its own, on the nodes given."""

    def __init__(self, directory: Path, nodes: Nodes, *, model: Path) -> None:
        write_run_config(
            directory,
            model_path=model,
            cluster={
                "address": nodes.address,
                "num_generators": 2,
                "start_after_s": 1,
                "cpus_per_generator": GENERATOR_CPUS,
                "wait_for_nodes": True,
                "use_gpu": "no",
            },
            train={"max_steps": 10_000, "learning_rate": 1e-4},
            rollout={"rollouts_per_step": 16, "max_staleness": 1},
            eval={"every_steps": 0, "at_start": False},
        )
        write_plan(directory, [])
        script = Path(__file__).parents[3] / "jobs" / "benchmarks" / "chaos_run.py"
        self.directory = directory
        self.run = directory / "run"
        self._output = (directory / "output.txt").open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(directory)], stdout=self._output, stderr=subprocess.STDOUT
        )

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def more_steps(self, count: int = 2) -> dict[str, Any]:
        """Wait for so many steps; the record of the last of them."""
        steps = steps_of(self.run) if self.run.exists() else []
        wanted = (steps[-1]["step"] if steps else 0) + count
        wait_for_step(self.run, wanted, alive=lambda: self.alive)
        return steps_of(self.run)[-1]

    def wait_for(self, what: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Steps until one's record is as wanted."""
        deadline = time.monotonic() + 240
        while not holds(record := self.more_steps(1)):
            assert time.monotonic() < deadline, f"{what} did not come: {record}"
        return record

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=120)
        self._output.close()

    def kill(self) -> None:
        if self.alive:
            self._process.kill()
            self._process.wait()


def test_nodes_come_and_go(untied_model: Path, tmp_path: Path) -> None:
    with cluster_of_nodes(head_cpus=HEAD_CPUS) as nodes:
        first = nodes.add(cpus=GENERATOR_CPUS)
        training = Training(tmp_path, nodes, model=untied_model)
        try:
            record = training.more_steps()
            assert (record["cluster/generators_live"], record["cluster/generators_wanted"]) == (1, 2)
            second = nodes.add(cpus=GENERATOR_CPUS)
            training.wait_for("a second generator", lambda record: record["cluster/generators_live"] == 2)
            nodes.drain(first, seconds=120)
            training.wait_for("a generator that leaves", lambda record: record["cluster/generators_live"] == 1)
            nodes.remove(first)
            training.more_steps()
            lost = sum(record["rollout/generator_replacements"] for record in steps_of(training.run))
            assert lost == 0, "one that leaves a drained node is not lost"
            nodes.kill(second)
            nodes.add(cpus=GENERATOR_CPUS)  # without it there is no generator any more
            training.more_steps(3)
            training.stop()
        finally:
            training.kill()
    check_nothing_lost(training)


def check_nothing_lost(training: Training) -> None:
    steps = steps_of(training.run)
    outcomes = {record["step"]: record for record in read_lines(training.directory / "outcomes.jsonl")}
    numbers = list(range(1, len(steps) + 1))
    assert [record["step"] for record in steps] == numbers == sorted(outcomes)
    assert [record["policy_version"] for record in steps] == numbers
    assert all(record["policy/sync_gap"] <= LARGEST_GAP for record in steps)
    assert all(record["policy/staleness_max"] <= 1 for record in steps)
    (checkpoint,) = (training.run / "checkpoints").iterdir()
    state = json.loads((checkpoint / "state.json").read_text())
    assert state["step"] == len(steps)
    accounting = check_accounting(outcomes, state)
    assert accounting.right, accounting.found
