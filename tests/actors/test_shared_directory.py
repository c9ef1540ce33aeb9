"""The run directory is looked for on every node that uses it, before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import ray

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.shared_directory import Ask, ask_by_ray, check_shared, see
from bolt_ray.core.errors import CheckpointError


def process(name: str, node: str) -> ProcessInfo:
    return ProcessInfo(
        role="learner", name=name, node=f"machine-{node}", pid=1, host_bytes=0, gpu_bytes=None, node_fraction=0.0,
        node_id=node,
    )  # fmt: skip


class Nodes:
    """Machines that see the directory at a place of their own."""

    def __init__(self, **places: Path) -> None:
        self.places = places
        self.asked: list[str] = []

    def ask(self, directory: str, token: str, nodes: Sequence[str]) -> dict[str, str]:
        self.asked += nodes
        return {node: see(str(self.places[node]), token, node, 0.0) for node in nodes}


def check(directory: Path, processes: Sequence[ProcessInfo], ask: Ask) -> None:
    check_shared(directory, processes, timeout_s=1.0, ask=ask, appears_within_s=0.0)


def test_a_shared_directory_is_left_as_it_was(tmp_path: Path) -> None:
    nodes = Nodes(a=tmp_path, b=tmp_path)
    processes = [process("learner-0", "a"), process("learner-1", "a"), process("shard-0", "b"), process("driver", "")]
    check(tmp_path, processes, nodes.ask)
    assert nodes.asked == ["a", "b"]
    assert list(tmp_path.iterdir()) == []


def test_one_machine_is_not_asked(tmp_path: Path) -> None:
    nodes = Nodes()
    check(tmp_path / "not even there", [process("learner-0", "")], nodes.ask)
    assert nodes.asked == []


def test_a_directory_of_its_own_on_another_node_is_found_out(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    own.mkdir()
    nodes = Nodes(a=shared, b=own, c=tmp_path / "missing")
    processes = [process("learner-0", "a"), process("learner-1", "b"), process("shard-0", "b"), process("shard-1", "c")]
    with pytest.raises(CheckpointError) as raised:
        check(shared, processes, nodes.ask)
    said = str(raised.value)
    assert "machine-b (learner-1, shard-0) does not see what is written there from another node" in said
    assert "machine-c (shard-1) does not see" in said and "machine-a" not in said and "Name a run_dir" in said
    assert list(shared.iterdir()) == []


def test_a_node_that_may_only_read_is_found_out(tmp_path: Path) -> None:
    """A place where nothing can be written, for root either: the answer's name is taken by a directory."""

    def ask(directory: str, token: str, nodes: Sequence[str]) -> dict[str, str]:
        (Path(directory) / f".seen-{token}-a").mkdir()
        return {node: see(directory, token, node, 0.0) for node in nodes}

    with pytest.raises(CheckpointError, match=r"machine-a \(learner-0\) cannot write there \(Is a directory\)"):
        check(tmp_path, [process("learner-0", "a")], ask)


def test_what_a_node_wrote_has_to_arrive(tmp_path: Path) -> None:
    """It reads a copy that is brought to it, and writes into its own."""

    def ask(directory: str, token: str, nodes: Sequence[str]) -> dict[str, str]:
        return dict.fromkeys(nodes, "")

    with pytest.raises(CheckpointError, match=r"machine-a .* does not see what is written there"):
        check(tmp_path, [process("learner-0", "a")], ask)


@pytest.mark.ray
def test_a_node_answers_by_a_task_of_its_own(ray_cluster: None, tmp_path: Path) -> None:
    """The way it is done on any other than the driver's; a node that is gone is told of."""
    node = ray.get_runtime_context().get_node_id()
    check_shared(tmp_path, [process("learner-0", node)], timeout_s=60.0, ask=None)  # not asked: the driver's own
    (tmp_path / ".seen-abc-driver").write_text("abc")
    answers = ask_by_ray(60.0)(str(tmp_path), "abc", [node, "ab" * 28])
    assert answers[node] == ""
    assert answers["ab" * 28].startswith("could not be asked (")
    assert (tmp_path / f".seen-abc-{node}").read_text() == "abc"
