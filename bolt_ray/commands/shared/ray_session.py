"""Starting a local Ray or joining a running one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from bolt_ray.actors.process_output import output_to_log
from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.commands.shared.gpus import names_running_ray
from bolt_ray.commands.shared.join import join_ray, kept_signal_handlers
from bolt_ray.commands.shared.resources import ProcessGroup, total_demand
from bolt_ray.commands.shared.room import check_room

# Two seconds between Ray Train's looks at its workers is most of a step here.
_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    # One actor less to start. It warns the ranks of a node that will be taken away, and no rank listens.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A run starts about ten processes at once on purpose; Ray would warn of it.
    "RAY_worker_maximum_startup_concurrency": "16",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@contextmanager
def ray_session(cluster: ClusterSettings, *, groups: list[ProcessGroup], runtime: Any = ray) -> Iterator[None]:
    """A connection to Ray with room for ``groups``; a Ray started here ends with it.

    A local Ray gets as many *logical* CPUs as the run asks for, even above the number of cores: most of its
    processes wait for each other. On a cluster the demand has to fit, or be something an autoscaler can add.

    Args:
        runtime: the library, or a stand-in with its functions.

    Raises:
        EnvironmentProblem: no Ray answers at ``cluster.address``, or a process fits on none of its nodes.
    """
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    address = cluster.address
    cpus, _ = total_demand(groups)
    started_here = not runtime.is_initialized() and not names_running_ray(address)
    if started_here:
        logical = max(os.cpu_count() or 1, int(cpus + 0.999))
        with kept_signal_handlers():
            runtime.init(
                address="local",
                num_cpus=logical,
                include_dashboard=cluster.dashboard,
                log_to_driver=True,
                logging_level=logging.ERROR,
            )
        output_to_log()
    elif not runtime.is_initialized():
        join_ray(address, runtime=runtime)
    try:
        if not cluster.wait_for_nodes:
            check_room([node["Resources"] for node in runtime.nodes() if node["Alive"]], groups)
        yield
    finally:
        if started_here:
            runtime.shutdown()
