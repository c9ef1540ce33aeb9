"""Each process has to fit on one node: what does not is named before anything starts."""

from __future__ import annotations

import pytest

from bolt_ray.commands.shared.resources import ProcessGroup
from bolt_ray.commands.shared.room import check_room
from bolt_ray.core.errors import EnvironmentProblem


def group(role: str, count: int, cpus: float, gpus: float = 0.0, *, least: int | None = None) -> ProcessGroup:
    return ProcessGroup(role=role, count=count, cpus=cpus, gpus=gpus, least=least)


def node(cpus: float, gpus: float = 0.0) -> dict[str, float]:
    return {"CPU": cpus, "memory": 1e9} | ({"GPU": gpus} if gpus else {})


RUN = [
    group("generators", 2, 1, 2),
    group("ranks", 4, 1, 1),
    group("scorers", 4, 0.25),
    group("shards", 2, 0.1),
]


@pytest.mark.parametrize(
    "nodes",
    [
        [node(64, 8)],
        [node(8), node(8, 4), node(8, 4)],
        [node(8, 2), node(8, 2), node(8, 1), node(8, 1), node(8, 1), node(8, 1)],
        [node(3.1, 4), node(4.1, 4)],  # to the last share of a CPU
    ],
)
def test_a_cluster_with_room(nodes: list[dict[str, float]]) -> None:
    check_room(nodes, RUN)


def test_a_process_that_is_larger_than_any_node_is_named() -> None:
    with pytest.raises(EnvironmentProblem, match=r"^generators: one asks for 1 CPU and 2 GPU, and no node") as caught:
        check_room([node(8, 1)] * 16, RUN)
    assert "the largest have 8 CPU and 1 GPU; lower cluster" in str(caught.value)
    with pytest.raises(EnvironmentProblem, match=r"^ranks: one asks for 16 CPU, and no node"):
        check_room([node(8)] * 4, [group("ranks", 1, 16)])


def test_too_little_in_all_says_how_much_of_what() -> None:
    parts = r"2 generators × 2, 4 ranks × 1"
    with pytest.raises(
        EnvironmentProblem, match=rf"^the run needs 8 GPUs \({parts}\) and the Ray cluster has 4; lower"
    ):
        check_room([node(64, 4)], RUN)
    with pytest.raises(EnvironmentProblem, match=r"^the run needs 7.2 CPUs .* and the Ray cluster has 6; "):
        check_room([node(6, 8)], RUN)


def test_room_in_sum_that_is_on_no_one_node() -> None:
    with pytest.raises(EnvironmentProblem, match=r"^generators: one asks for 1 CPU and 2 GPU, and 2 of 3 find a node"):
        check_room([node(8, 3), node(8, 3)], [group("generators", 3, 1, 2)])
    with pytest.raises(EnvironmentProblem, match=r"^ranks: .* 1 of 2 find a node .* in sum and not on any one node"):
        check_room([node(8, 1), node(0, 1)], [group("ranks", 2, 1, 1)])


def test_what_a_start_does_not_wait_for_needs_no_room_yet() -> None:
    check_room([node(1)], [group("scorers", 64, 0.25, least=4)])
    with pytest.raises(EnvironmentProblem, match=r"^the run needs 1.25 CPUs \(5 scorers × 0.25\)"):
        check_room([node(1)], [group("scorers", 64, 0.25, least=5)])
