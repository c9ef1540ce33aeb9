"""Whether the nodes of a run see its directory: found out at the start, not at the first checkpoint or at a resume."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bolt_ray.actors.processes import ProcessInfo, own_node_id
from bolt_ray.core.errors import CheckpointError

APPEARS_WITHIN_S = 5.0
"""A network file system may show a new file late."""

Ask = Callable[[str, str, Sequence[str]], Mapping[str, str]]
"""Directory, token and nodes to what `see` says on each."""


def check_shared(
    directory: Path,
    processes: Sequence[ProcessInfo],
    *,
    timeout_s: float,
    ask: Ask | None = None,
    appears_within_s: float = APPEARS_WITHIN_S,
) -> None:
    """Have a file of this process read on the node of every process given, and one written there that is read here.

    Nothing is asked of this process's own node.

    Args:
        directory: exists here.
        processes: those that read and write there.
        timeout_s: longest wait for the answers.
        ask: stands in for Ray.

    Raises:
        CheckpointError: names the nodes that do not see it, or cannot write there.
    """
    nodes: dict[str, list[ProcessInfo]] = {}
    for process in processes:
        if process.node_id not in ("", own_node_id()):
            nodes.setdefault(process.node_id, []).append(process)
    if not nodes:
        return
    token = uuid.uuid4().hex
    mine = directory / _name(token)
    try:
        mine.write_text(token, encoding="ascii")
        answers = (ask or ask_by_ray(timeout_s))(str(directory), token, list(nodes))
        problems = {
            node: answers[node] or _unseen(directory / _name(token, node), token, appears_within_s) for node in nodes
        }
    finally:
        for path in (mine, *(directory / _name(token, node) for node in nodes)):
            with suppress(OSError):
                path.unlink(missing_ok=True)
    said = [
        f"{nodes[node][0].node} ({', '.join(process.name for process in nodes[node])}) {problem}"
        for node, problem in problems.items()
        if problem
    ]
    if said:
        raise CheckpointError(
            f"{directory}: the run directory must be on storage that all nodes of the run share, and "
            f"{'; '.join(said)}. Name a run_dir on a shared file system (NFS, EFS, Filestore, a shared volume)"
        )


def see(directory: str, token: str, node: str, appears_within_s: float = APPEARS_WITHIN_S) -> str:
    """What keeps this machine from using the directory, "" if nothing does. Leaves a file there for who asked."""
    problem = _unseen(Path(directory) / _name(token), token, appears_within_s)
    if problem:
        return problem
    try:
        (Path(directory) / _name(token, node)).write_text(token, encoding="ascii")
    except OSError as error:
        return f"cannot write there ({error.strerror})"
    return ""


def _unseen(file: Path, token: str, appears_within_s: float) -> str:
    deadline = time.monotonic() + appears_within_s
    while True:
        with suppress(OSError):
            if file.read_text(encoding="ascii") == token:
                return ""
        if time.monotonic() > deadline:
            return "does not see what is written there from another node"
        time.sleep(0.05)


def _name(token: str, node: str = "driver") -> str:
    return f".seen-{token}-{node}"


_remote_see: Any = ray.remote(num_cpus=0, max_retries=2)(see)


def ask_by_ray(timeout_s: float) -> Ask:
    """Asks by a task on each node; those that have not answered within ``timeout_s`` are told of as such."""

    def ask(directory: str, token: str, nodes: Sequence[str]) -> dict[str, str]:
        refs = {
            node: _remote_see.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(
                directory, token, node
            )
            for node in nodes
        }
        done, _ = ray.wait(list(refs.values()), num_returns=len(refs), timeout=timeout_s)
        return {node: _answer(ref) if ref in done else "did not answer" for node, ref in refs.items()}

    return ask


def _answer(ref: Any) -> str:
    try:
        return str(ray.get(ref))
    except ray.exceptions.RayError as error:  # the node has gone: the processes on it are told of elsewhere
        return f"could not be asked ({type(error).__name__})"
