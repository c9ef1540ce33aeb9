"""Whether a run gets GPUs, found out without starting Ray and, where there is no driver, without loading torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from bolt_ray.config.resolve import resolve
from bolt_ray.config.schema import RunConfig

_DRIVERS = ("/dev/nvidiactl", "/dev/kfd")


def resolve_here(config: RunConfig) -> RunConfig:
    """The configuration made definite for the machines this run will have."""
    return resolve(config, use_gpu=wants_gpu(config))


def wants_gpu(config: RunConfig) -> bool:
    """Whether generators and learners ask for GPUs: ``cluster.use_gpu``, or whether there is one."""
    choice = config.cluster.use_gpu
    return choice == "yes" or (choice == "auto" and has_gpus(config.cluster.address))


def has_gpus(address: str | None) -> bool:
    """Whether the Ray to be joined, or this machine, has a GPU. Does not start Ray."""
    if names_running_ray(address) or ("ray" in sys.modules and sys.modules["ray"].is_initialized()):
        import ray

        from bolt_ray.commands.shared.join import join_ray

        if not ray.is_initialized():
            join_ray(address)
        return gpus_of(ray.cluster_resources(), ray._private.state.state.get_max_resources_from_cluster_config())
    if not any(Path(driver).exists() for driver in _DRIVERS):
        return False
    import torch

    return bool(torch.cuda.is_available())


def gpus_of(have: Mapping[str, float], at_most: Mapping[str, float] | None) -> bool:
    """Whether a cluster has GPUs, or an autoscaler that can add some.

    Args:
        have: its resources now.
        at_most: those of all nodes that the autoscaler may bring; None without one.
    """
    return have.get("GPU", 0) > 0 or (at_most or {}).get("GPU", 0) > 0


def names_running_ray(address: str | None) -> bool:
    """Inside a submitted job, with RAY_ADDRESS, or with an address configured, there is a Ray to join."""
    return address not in (None, "local") or (address is None and bool(os.environ.get("RAY_ADDRESS")))
