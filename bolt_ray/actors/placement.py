"""Where the processes of a run that keep its state are put."""

from __future__ import annotations

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


def near_driver() -> NodeAffinitySchedulingStrategy:
    """The driver's node while it has room, else any other, also when an actor is restarted.

    A run ends with that node in any case, and a cloud takes back other nodes before a cluster's head.
    """
    here = ray.get_runtime_context().get_node_id()
    return NodeAffinitySchedulingStrategy(here, soft=True, _spill_on_unavailable=True)
