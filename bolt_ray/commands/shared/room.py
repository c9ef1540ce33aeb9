"""Whether a cluster's nodes have room for the processes of a run, each of which has to fit on one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bolt_ray.commands.shared.resources import ProcessGroup
from bolt_ray.core.errors import EnvironmentProblem

_REMEDY = "lower cluster.* or scoring.*, add nodes, or set cluster.wait_for_nodes=true where an autoscaler adds them"
_SLACK = 1e-6
"""Ray counts in ten-thousandths; sums of shares are not exact."""


def check_room(nodes: Sequence[Mapping[str, float]], groups: Sequence[ProcessGroup]) -> None:
    """Find a place for every process, the largest first, as Ray will have to.

    Args:
        nodes: what each node has in all, by kind; what other jobs use of it may become free.
        groups: what a start cannot do without.

    Raises:
        EnvironmentProblem: names the process that fits nowhere.
    """
    needed = [group for group in groups if group.needed]
    for group in needed:
        if not any(_fits(group, node) for node in nodes):
            raise EnvironmentProblem(
                f"{group.role}: one asks for {_amount(group)}, and no node of the Ray cluster has as much; "
                f"the largest have {_largest(nodes)}; {_REMEDY}"
            )
    for kind in ("CPU", "GPU"):
        asked = {group.role: (group.needed, _asks(group, kind)) for group in needed if _asks(group, kind) > 0}
        need, have = sum(count * each for count, each in asked.values()), sum(node.get(kind, 0.0) for node in nodes)
        if need > have + _SLACK:
            parts = ", ".join(f"{count} {role} × {each:g}" for role, (count, each) in asked.items())
            raise EnvironmentProblem(
                f"the run needs {need:g} {kind}s ({parts}) and the Ray cluster has {have:g}; {_REMEDY}"
            )
    left = [dict(node) for node in nodes]
    for group in sorted(needed, key=lambda group: (group.gpus, group.cpus), reverse=True):
        for number in range(group.needed):
            # The fullest that still has room: whole nodes stay for what needs a whole one.
            fitting = [node for node in left if _fits(group, node)]
            if not fitting:
                raise EnvironmentProblem(
                    f"{group.role}: one asks for {_amount(group)}, and {number} of {group.needed} find a node with as "
                    f"much left; the cluster has room in sum and not on any one node; {_REMEDY}"
                )
            node = min(fitting, key=lambda node: (node.get("GPU", 0.0), node.get("CPU", 0.0)))
            for kind in ("CPU", "GPU"):
                node[kind] = node.get(kind, 0.0) - _asks(group, kind)


def _asks(group: ProcessGroup, kind: str) -> float:
    return group.cpus if kind == "CPU" else group.gpus


def _fits(group: ProcessGroup, node: Mapping[str, float]) -> bool:
    return all(_asks(group, kind) <= node.get(kind, 0.0) + _SLACK for kind in ("CPU", "GPU"))


def _amount(group: ProcessGroup) -> str:
    return f"{group.cpus:g} CPU" + (f" and {group.gpus:g} GPU" if group.gpus else "")


def _largest(nodes: Sequence[Mapping[str, float]]) -> str:
    most = {kind: max((node.get(kind, 0.0) for node in nodes), default=0.0) for kind in ("CPU", "GPU")}
    return f"{most['CPU']:g} CPU and {most['GPU']:g} GPU"
