"""A Ray cluster of several nodes on this machine, whose nodes come, are drained and die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION


class Nodes:
    """The nodes beside the head."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def add(self, *, cpus: float) -> Any:
        return self._cluster.add_node(num_cpus=cpus)

    def drain(self, node: Any, *, seconds: float) -> None:
        """Announce that the node goes in so many seconds, as a cloud does of a spot instance."""
        accepted, why = GcsClient(address=self.address).drain_node(
            node.node_id, DRAIN_NODE_REASON_PREEMPTION, "a test", int(1000 * (time.time() + seconds))
        )
        assert accepted, why

    def kill(self, node: Any) -> None:
        """SIGKILL to all that runs there, as when its machine is lost."""
        raylet = node.all_processes["raylet"][0].process
        below = psutil.Process(raylet.pid).children(recursive=True)
        for pid in (raylet.pid, *(process.pid for process in below)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._cluster.remove_node(node, allow_graceful=False)

    def remove(self, node: Any) -> None:
        self._cluster.remove_node(node)


@contextmanager
def cluster_of_nodes(*, head_cpus: float) -> Iterator[Nodes]:
    """A head with so many CPUs; whoever joins ``address`` uses it, and nobody else."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head_cpus, "include_dashboard": False})
    try:
        yield Nodes(cluster)
    finally:
        cluster.shutdown()
