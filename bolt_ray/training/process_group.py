"""The process group of the learner ranks under Ray Train, without PyTorch in the processes that only start them.

``ray.train.torch`` makes the same one, but whoever names its configuration imports PyTorch: so did the controller of
the group, which has no use for it.
"""

from __future__ import annotations

import logging
import os
import socket
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig

from bolt_ray.actors.processes import hide_gpus

log = logging.getLogger(__name__)

LEAVE_S = 30.0
"""How long the ranks may take to leave; what is left then ends with their processes."""


@dataclass
class ProcessGroupConfig(BackendConfig):  # type: ignore[misc]  # Ray Train has no types
    """``torch.distributed`` over all ranks.

    Attributes:
        backend: "nccl" or "gloo".
        timeout_s: limit of one collective operation.
    """

    backend: str
    timeout_s: int

    @property
    def backend_cls(self) -> type[ProcessGroupBackend]:
        return ProcessGroupBackend


class ProcessGroupBackend(Backend):  # type: ignore[misc]
    """Ray Train calls it in the group's controller."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Let every rank join; returns when all have."""
        address, port = worker_group.execute_single(0, _free_address)
        joining = [
            worker_group.execute_single_async(
                rank, _join, address, port, backend_config.backend, backend_config.timeout_s
            )
            for rank in range(len(worker_group))
        ]
        ray.get(joining)

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroupConfig) -> None:
        """Let every rank leave, so that none sees another's end as a failure."""
        try:
            ray.get(worker_group.execute_async(_leave), timeout=LEAVE_S)
        except GetTimeoutError:
            log.warning("the learner ranks did not leave their process group within %.0f s", LEAVE_S)


def _free_address() -> tuple[str, int]:
    """This node's address, and a port free there."""
    address = ray.util.get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as free:
        free.bind(("", 0))
        return address, int(free.getsockname()[1])


def _join(address: str, port: int, backend: str, timeout_s: int) -> None:
    """In a rank: the environment of torchrun, and ``init_process_group``."""
    from datetime import timedelta

    import torch.distributed as dist

    if backend == "gloo":
        hide_gpus()  # the model would go to one of them all the same
    context = ray.train.get_context()
    os.environ |= {
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
        "RANK": str(context.get_world_rank()),
        "WORLD_SIZE": str(context.get_world_size()),
        "LOCAL_RANK": str(context.get_local_rank()),
        "LOCAL_WORLD_SIZE": str(context.get_local_world_size()),
        "NODE_RANK": str(context.get_node_rank()),
    }
    dist.init_process_group(
        backend=backend,
        init_method="env://",
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        timeout=timedelta(seconds=timeout_s),
    )


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
