"""What a process that is waited for is doing: its Python stacks, read from outside by ``py-spy``.

A process that hangs answers no call, so nothing is asked of it: py-spy reads its memory, on the machine where it runs.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bolt_ray.actors.processes import ProcessInfo, own_node_id
from bolt_ray.core.waits import since

log = logging.getLogger(__name__)

DUMP_S = 5.0
"""Longest time py-spy may take; it takes 0.1 s."""

REMOTE_S = 15.0
"""The same on another machine, where Ray may have to start a process for it."""

MOST_PROCESSES = 8
"""Stacks written for one wait: of many that hang alike a few say it all."""


def waits_for(what: str, *, waited_s: float, processes: Sequence[ProcessInfo] = (), who: str = "the driver") -> str:
    """Says who waits for what since when and which processes owe it, and writes what these do into the log.

    To be called when a deadline has passed: takes up to ``REMOTE_S``.

    Args:
        what: is waited for, as "weights of version 3".
        waited_s: for how long.
        processes: they owe it.

    Returns:
        "the driver has waited for weights of version 3 since 10:42:13 (600 s), from generator-0 (process 7 on a)".
    """
    named = ", ".join(_named(process) for process in processes[:MOST_PROCESSES])
    more = f" and {len(processes) - MOST_PROCESSES} others" if len(processes) > MOST_PROCESSES else ""
    said = f"{who} has waited for {what} {since(waited_s)}" + (f", from {named}{more}" if named else "")
    log_stacks(processes, why=said)
    return said


def log_stacks(processes: Sequence[ProcessInfo], *, why: str) -> None:
    """Write the stacks of the first ``MOST_PROCESSES`` into the log, beside ``why``; never raises."""
    looked_at = processes[:MOST_PROCESSES]
    if not looked_at:
        return
    with ThreadPoolExecutor(max_workers=len(looked_at)) as pool:
        for process, found in zip(looked_at, pool.map(stacks, looked_at), strict=True):
            text = found or "its stacks cannot be read: it is gone, or py-spy may not look at it"
            log.warning("%s. %s:\n%s", why, _named(process), text)


def stacks(process: ProcessInfo) -> str:
    """The Python stacks of a process and of those it started, as ``py-spy dump`` prints them.

    Never raises, and takes at most ``REMOTE_S``; "" where py-spy is missing or not allowed, the process or its machine
    gone.
    """
    try:
        if process.node_id == own_node_id():
            return dump(process.pid)
        return _on_node(process)
    except Exception as error:  # noqa: BLE001 - to look at a process never adds an error to the one that is told
        log.info("no stacks of %s: %s", _named(process), error)
        return ""


def dump(pid: int) -> str:
    """What py-spy prints of a process of this machine; "" if that holds no stack."""
    found = shutil.which("py-spy", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if found is None:
        return ""
    # Without pausing it: a process that is stopped cannot be paused, and one that hangs stands still as it is.
    command = [found, "dump", "--pid", str(pid), "--nonblocking", "--subprocesses"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DUMP_S)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    # It fails over any child that is no Python, after having told of the others.
    return done.stdout.strip() if "Thread " in done.stdout else ""


_remote_dump: Any = ray.remote(num_cpus=0, max_retries=0)(dump)


def _on_node(process: ProcessInfo) -> str:
    if not process.node_id or not ray.is_initialized():
        return ""
    there = NodeAffinitySchedulingStrategy(process.node_id, soft=False)
    ref = _remote_dump.options(scheduling_strategy=there).remote(process.pid)
    try:
        return str(ray.get(ref, timeout=REMOTE_S))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(ref, force=True)
        return ""


def _named(process: ProcessInfo) -> str:
    return f"{process.name} (process {process.pid} on {process.node})"
