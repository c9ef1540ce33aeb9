"""What a process that hangs is doing, found from outside: here, in another process, stopped, gone, and under Ray."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from bolt_ray.actors.processes import ProcessInfo, ProcessMonitor, own_node_id
from bolt_ray.actors.stacks import MOST_PROCESSES, dump, stacks, waits_for

DEADLINE_S = 60.0

SLEEPER = """
import time

def waits_for_ever():
    print("there", flush=True)
    time.sleep(1000)

waits_for_ever()
"""


def process_of(pid: int, *, name: str = "generator-0", node_id: str | None = None) -> ProcessInfo:
    """On this machine unless another is named; it has an id where an earlier test left Ray running."""
    here = own_node_id() if node_id is None else node_id
    return ProcessInfo(
        role="generator", name=name, node="a", pid=pid, host_bytes=0, gpu_bytes=None, node_fraction=0.0, node_id=here
    )


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a process that sleeps in ``waits_for_ever``."""
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.fixture(scope="module", autouse=True)
def _allowed() -> None:
    if not dump(os.getpid()):
        pytest.skip("py-spy may not look at processes here")


def dumped(process: ProcessInfo, *, with_frame: str) -> str:
    """Its stacks once they show the frame: without pausing a process, a moment's picture may be incomplete."""
    deadline = time.monotonic() + DEADLINE_S
    while with_frame not in (found := stacks(process)):
        assert time.monotonic() < deadline, found
    return found


def test_a_process_tells_where_it_waits(sleeper: int) -> None:
    assert f"Process {sleeper}" in dumped(process_of(sleeper), with_frame="waits_for_ever (<string>:6)")


def test_a_stopped_process_is_read_too(sleeper: int) -> None:
    os.kill(sleeper, signal.SIGSTOP)
    dumped(process_of(sleeper), with_frame="waits_for_ever (<string>:6)")


def test_nothing_is_known_of_a_process_that_is_gone(sleeper: int) -> None:
    os.kill(sleeper, signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    while Path(f"/proc/{sleeper}/cmdline").read_bytes():
        assert time.monotonic() < deadline
    assert stacks(process_of(sleeper)) == ""
    assert stacks(process_of(sleeper, node_id="f" * 56)) == "", "nor of one on a machine that is none of Ray's"


def test_a_wait_names_who_owes_what_since_when_and_the_log_shows_what_they_do(
    sleeper: int, caplog: pytest.LogCaptureFixture
) -> None:
    dumped(process_of(sleeper), with_frame="waits_for_ever")
    caplog.set_level(logging.WARNING, logger="bolt_ray")
    gone = process_of(2**22 + 1, name="generator-1")
    said = waits_for("3 completions", waited_s=600.0, processes=[process_of(sleeper), gone])
    assert said.startswith("the driver has waited for 3 completions since ")
    assert said.endswith(f" (600 s), from generator-0 (process {sleeper} on a), generator-1 (process {gone.pid} on a)")
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"{said}. generator-0 (process {sleeper} on a):\nProcess {sleeper}")
    assert "cannot be read" in second


def test_of_many_processes_a_few_are_named() -> None:
    many = [process_of(2**22 + i, name=f"scorer-{i}") for i in range(MOST_PROCESSES + 5)]
    said = waits_for("rewards", waited_s=1.0, processes=many)
    assert f"scorer-{MOST_PROCESSES - 1} " in said
    assert said.endswith(" and 5 others")
    assert f"scorer-{MOST_PROCESSES} " not in said


class Sleepy:
    """An actor with a call that hangs."""

    def info(self) -> ProcessInfo:
        return ProcessMonitor("scorer", "scorer-0").info()

    def waits_for_ever(self) -> None:
        time.sleep(1000)


@pytest.mark.ray
def test_an_actor_is_read_on_its_own_node(ray_cluster: None) -> None:
    """From the driver's machine directly, and the way it is done on any other: by a task that runs there."""
    from bolt_ray.actors.stacks import _on_node

    actor: Any = ray.remote(num_cpus=0, max_concurrency=2)(Sleepy).remote()
    process = ray.get(actor.info.remote(), timeout=DEADLINE_S)
    assert process.node_id == ray.get_runtime_context().get_node_id()
    actor.waits_for_ever.remote()
    dumped(process, with_frame="waits_for_ever (test_stacks.py")
    assert "waits_for_ever (test_stacks.py" in _on_node(process)
    ray.kill(actor)
