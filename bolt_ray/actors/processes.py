"""What the processes of a run say of themselves: who they are, and how much memory they have.

Each measures itself and sends the result with answers that it gives anyway, so that this works on any number of nodes
and costs no call.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.rewards.sandbox.usage import memory_of_tree

declare_metrics(
    {
        "memory/{role}_host": (
            "bytes",
            "resident memory of the largest process of a role (driver, generator, learner, scorer, shard), with the "
            "processes it started; the driver's without those of a Ray that it started",
        ),
        "memory/{role}_gpu": ("bytes", "the most GPU memory that PyTorch held so far in a process of the role"),
        "memory/node_fraction": (
            "share",
            "used memory of the fullest node, of what the machine has or the process's container may use",
        ),
    }
)

ProcessRole = Literal["driver", "generator", "learner", "scorer", "shard"]
"""What a process of a run does."""

MEASURED_EVERY_S = 5.0
"""A measurement takes half a millisecond, and to find the children of a process with many threads some more."""

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInfo:
    """A process of a run, with its memory when it last answered a call.

    Attributes:
        role: what it does.
        name: its own, as ``generator-0``.
        node: name of its machine.
        pid: of the process, there.
        host_bytes: resident memory, with that of the processes it started.
        gpu_bytes: the most GPU memory that PyTorch ever held for it, on one device; None where it uses none.
        node_fraction: used share of its machine's memory, or of what its container may use if that is fuller.
        node_id: Ray's hexadecimal id of that machine; "" outside of Ray.
    """

    role: ProcessRole
    name: str
    node: str
    pid: int
    host_bytes: int
    gpu_bytes: int | None
    node_fraction: float
    node_id: str = ""


class ProcessMonitor:
    """Measures the process it is made in; any thread may ask.

    Args:
        role: what the process does.
        name: its own name.
        children: whether the processes it started are counted.
    """

    def __init__(self, role: ProcessRole, name: str, *, children: bool = False) -> None:
        self._role: ProcessRole = role
        self._name = name
        self._children = children
        self._process = psutil.Process()
        self._measured_at = 0.0
        self._info: ProcessInfo | None = None

    def info(self) -> ProcessInfo:
        """At most ``MEASURED_EVERY_S`` old."""
        now = time.monotonic()
        if self._info is None or now - self._measured_at > MEASURED_EVERY_S:
            self._measured_at, self._info = now, self._measured()
        return self._info

    def _measured(self) -> ProcessInfo:
        return ProcessInfo(
            role=self._role,
            name=self._name,
            node=platform.node(),
            pid=os.getpid(),
            host_bytes=self._process.memory_info().rss + self._of_children(),
            gpu_bytes=_gpu_bytes(),
            node_fraction=node_memory_fraction(),
            node_id=own_node_id(),
        )

    def _of_children(self) -> int:
        return memory_of_tree(self._process.pid, enough=sys.maxsize) if self._children else 0


def own_node_id() -> str:
    """Ray's hexadecimal id of this machine; "" in a process outside of Ray."""
    ray: Any = sys.modules.get("ray")
    return "" if ray is None or not ray.is_initialized() else str(ray.get_runtime_context().get_node_id())


def memory_metrics(processes: Iterable[ProcessInfo]) -> dict[str, float]:
    """``memory/*`` of a run's processes."""
    metrics: dict[str, float] = {}

    def largest(name: str, value: float) -> None:
        metrics[name] = max(metrics.get(name, 0.0), float(value))

    for process in processes:
        largest(f"memory/{process.role}_host", process.host_bytes)
        if process.gpu_bytes is not None:
            largest(f"memory/{process.role}_gpu", process.gpu_bytes)
        largest("memory/node_fraction", process.node_fraction)
    return metrics


def node_memory_fraction() -> float:
    """The used share of this machine's memory, or of what this process's container may use if that is fuller."""
    machine = psutil.virtual_memory()
    return max([1.0 - float(machine.available / machine.total), *container_fractions()])


def container_fractions(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> list[float]:
    """The used share of each limit on memory that a control group sets this process (version 2 or 1 of them).

    What was read from files and can be dropped again (``inactive_file``) does not count, as Kubernetes counts it.

    Args:
        root: where control groups are mounted.
        own: the groups of this process.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    fractions = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # Within a container the group's own path is often that of the host, while the mount begins at the group.
        place = top / group.lstrip("/")
        fractions += [_fraction(each, *names) for each in (place, *place.parents) if each.is_relative_to(top)]
    return [fraction for fraction in fractions if fraction is not None]


def _fraction(group: Path, limit: str, used: str, droppable: str) -> float | None:
    try:
        most = int((group / limit).read_text())  # "max" where there is none
        now = int((group / used).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return (now - int(stat.get(droppable, 0))) / most if most > 0 else None


def _gpu_bytes() -> int | None:
    """Of the device on which PyTorch held most; None in a process that uses none."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return max(int(torch.cuda.max_memory_reserved(device)) for device in range(torch.cuda.device_count()))
