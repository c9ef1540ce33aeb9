"""What processes say of their memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from bolt_ray.actors.processes import (
    ProcessInfo,
    ProcessMonitor,
    ProcessRole,
    container_fractions,
    memory_metrics,
    node_memory_fraction,
)

MIB = 2**20


def process(role: ProcessRole, host: int, *, gpu: int | None = None, node: float = 0.5) -> ProcessInfo:
    return ProcessInfo(role=role, name=f"{role}-0", node="n", pid=1, host_bytes=host, gpu_bytes=gpu, node_fraction=node)


def test_of_each_role_the_largest_process_counts_and_of_the_nodes_the_fullest() -> None:
    processes = [process("generator", 5, gpu=70), process("generator", 9, gpu=60, node=0.75), process("shard", 2)]
    assert memory_metrics(processes) == {
        "memory/generator_host": 9.0,
        "memory/generator_gpu": 70.0,
        "memory/shard_host": 2.0,
        "memory/node_fraction": 0.75,
    }
    assert memory_metrics([]) == {}


def test_a_process_measures_itself_and_where_asked_its_children() -> None:
    held = np.ones(64 * MIB, dtype=np.uint8)
    code = "held = bytearray(b'x') * (96 * 2**20); print(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        alone, together = (ProcessMonitor("scorer", "scorer-3", children=children).info() for children in (False, True))
        child.communicate(b"\n")
    assert (alone.role, alone.name, alone.pid, alone.gpu_bytes) == ("scorer", "scorer-3", psutil.Process().pid, None)
    assert alone.host_bytes >= held.nbytes
    assert together.host_bytes - alone.host_bytes >= 90 * MIB
    assert 0.0 < alone.node_fraction < 1.0


def test_a_measurement_serves_for_some_seconds() -> None:
    monitor = ProcessMonitor("driver", "driver")
    assert monitor.info() is monitor.info()


@pytest.mark.parametrize("version", [1, 2])
def test_every_limit_on_the_way_up_counts(tmp_path: Path, version: int) -> None:
    """A job of 400 bytes, of which 20 can be dropped, in a group of 1,000; the machine's own group has no limit."""
    top = tmp_path / "memory" if version == 1 else tmp_path
    limit, used, droppable = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        if version == 1
        else ("memory.max", "memory.current", "inactive_file")
    )
    for group, most, now, spare in (("", "max", 5000, 0), ("jobs", "1000", 900, 100), ("jobs/7", "400", 320, 20)):
        (top / group).mkdir(parents=True, exist_ok=True)
        (top / group / limit).write_text(f"{most}\n")
        (top / group / used).write_text(f"{now}\n")
        (top / group / "memory.stat").write_text(f"anon 1\n{droppable} {spare}\n")
    own = tmp_path / "own"
    own.write_text("5:cpu:/elsewhere\n4:memory:/jobs/7\n" if version == 1 else "0::/jobs/7\n")
    assert sorted(container_fractions(tmp_path, own)) == [300 / 400, 800 / 1000]
    own.write_text(own.read_text().replace("/jobs/7", "/of/the/host"))
    assert container_fractions(tmp_path, own) == [], "seen from within a container, where no such group is"
    (top / limit).write_text("10000")
    assert container_fractions(tmp_path, own) == [0.5], "and the mount begins at the container's own"


def test_without_control_groups_the_machine_counts(tmp_path: Path) -> None:
    assert container_fractions(tmp_path, tmp_path / "none") == []
    assert 0.0 < node_memory_fraction() <= 1.0
