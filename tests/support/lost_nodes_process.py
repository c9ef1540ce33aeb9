"""Scorers and baseline shards on nodes that are drained and lost, in a process and a cluster of their own.

``python -m support.lost_nodes_process DIRECTORY`` prints what became of them as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
from support.clusters import cluster_of_nodes
from support.rewards import reward_spec

from bolt_ray.actors.baseline_shards import BaselineShards
from bolt_ray.actors.scorer_actor import ScoringRequest
from bolt_ray.actors.scorer_pool import ScorerPool
from bolt_ray.actors.settings import ScoringSettings
from bolt_ray.core.baseline import BaselineSettings, BaselineStore
from bolt_ray.core.records import Outcomes
from bolt_ray.rewards.protocol import RewardInput

KEYS = [f"row-{number}" for number in range(40)]
DEADLINE_S = 120.0


def commit(shards: BaselineShards, store: BaselineStore, step: int) -> None:
    """The same outcomes for both."""
    counts = np.full(len(KEYS), 2)
    sums = (np.arange(len(KEYS)) * 7 + step) % 3 / 1.0
    versions = np.full(len(KEYS), step)
    shards.commit(
        Outcomes(keys=tuple(KEYS), reward_sums=sums, counts=counts, versions=versions),
        update_id=f"step-{step}",
        drift=0.01,
    )
    store.update_many(KEYS, sums, counts, versions=versions, update_id=f"step-{step}", drift=0.01)


def score(pool: ScorerPool, count: int) -> list[Any]:
    requests = [
        ScoringRequest(request_id=number, input=RewardInput(prompt="2+2", completion="4", answer="4"))
        for number in range(count)
    ]
    pool.submit(requests)
    found, deadline = [], time.monotonic() + DEADLINE_S
    while pool.num_pending and time.monotonic() < deadline:
        found += [getattr(each.result, "reward", None) for each in pool.poll(timeout_s=0.5)]
    return found


def node_of(pool: ScorerPool, wanted: str) -> str:
    """Where its scorers are, once they are on the node wanted alone, or time is up."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline and {each.node_id for each in pool.processes} != {wanted}:
        pool.poll()
        time.sleep(0.1)
    return ",".join(sorted({each.node_id for each in pool.processes}))


def main(directory: Path) -> dict[str, Any]:
    # The head has room for nothing, as on Kubernetes: what prefers the driver's node has to go elsewhere.
    with cluster_of_nodes(head_cpus=0) as nodes:
        first = nodes.add(cpus=2)
        ray.init(address=nodes.address, log_to_driver=False)
        shards = BaselineShards.start(
            num_shards=2,
            settings=BaselineSettings(),
            wal_dir=directory,
            timeout_s=DEADLINE_S,
            startup_s=DEADLINE_S,
            cpus_per_shard=0.1,
        )
        store = BaselineStore(BaselineSettings())
        shards.register(KEYS)
        store.register(KEYS)
        commit(shards, store, 0)
        pool = ScorerPool.start(
            specs=[reward_spec(name="right", type="exact")],
            settings=ScoringSettings(num_scorers=1),
            room_s=DEADLINE_S,
            failure_window_s=600.0,
        )
        shard_nodes = {process.node_id for process in shards.processes}
        second = nodes.add(cpus=2)
        nodes.drain(first, seconds=600.0)
        said: dict[str, Any] = {
            "shards began on the first node": shard_nodes == {first.node_id},
            "scorers left the first node": node_of(pool, second.node_id) == second.node_id,
            "restarts by draining": pool.restarts,
            "scored": score(pool, 20),
        }
        nodes.kill(first)
        commit(shards, store, 1)
        commit(shards, store, 2)
        mine, theirs = shards.read(KEYS, 5), store.read(KEYS, 5, level=store.level)
        said |= {
            "shards are on the second node": {each.node_id for each in shards.processes} == {second.node_id},
            "baseline is the same": all(
                np.array_equal(getattr(mine, name), getattr(theirs, name)) for name in ("v_hat", "n_eff", "visits")
            ),
        }
        pool.close()
        shards.close()
        ray.shutdown()
    return said


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
