"""The few calls of Ray by which a pool watches its actors, and its clock; a stand-in of both runs it without Ray."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import ray

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.ray_results import get_result
from bolt_ray.actors.stacks import log_stacks


class RayRuntime:
    """Ray itself."""

    def now(self) -> float:
        """Seconds; only differences count."""
        return time.monotonic()

    def ready(self, refs: Sequence[Any], *, timeout_s: float) -> list[Any]:
        """Those of ``refs`` that are done; waits up to ``timeout_s`` for a first one, also where there are none."""
        if not refs:
            time.sleep(timeout_s)
            return []
        # ray.wait for several returns late: wait for one, then collect the others that are ready.
        done: list[Any] = ray.wait(list(refs), num_returns=1, timeout=timeout_s)[0]
        return ray.wait(list(refs), num_returns=len(refs), timeout=0)[0] if done else []

    def result(self, ref: Any, *, timeout_s: float | None = None) -> Any:
        """See `get_result`."""
        return get_result(ref, timeout_s=timeout_s)

    def show(self, process: ProcessInfo | None, *, why: str) -> None:
        """Write into the log what a process is doing that is waited for in vain."""
        log_stacks([] if process is None else [process], why=why)

    def kill(self, actor: Any) -> None:
        """End an actor's process."""
        ray.kill(actor)
