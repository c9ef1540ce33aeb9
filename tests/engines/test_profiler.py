"""Recordings by PyTorch's profiler: the files are there, readable, and a failure is one of them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch

from bolt_ray.engines.profiler import ProfileTarget, Recording, Tool


def target(directory: Path, tool: Tool = "torch") -> ProfileTarget:
    return ProfileTarget(directory=str(directory), name="step-000005", tool=tool)


def multiply() -> None:
    torch.ones(64, 64) @ torch.ones(64, 64)


@pytest.mark.parametrize(("tool", "column"), [("torch", "Self CPU"), ("memory", "Self CPU Mem")])
def test_every_operator_is_in_the_trace_and_the_table(tmp_path: Path, tool: Tool, column: str) -> None:
    recording = Recording.start(target(tmp_path / "profile", tool), who="learner-0")
    assert recording is not None
    multiply()
    recording.stop()
    files = sorted(path.name for path in (tmp_path / "profile").iterdir())
    assert files == ["step-000005-learner-0.json.gz", "step-000005-learner-0.txt"]
    with gzip.open(tmp_path / "profile" / files[0], "rt") as file:
        events = json.load(file)["traceEvents"]
    assert "aten::mm" in {event.get("name") for event in events}
    assert ("[memory]" in {event.get("name") for event in events}) == (tool == "memory")
    table = (tmp_path / "profile" / files[1]).read_text(encoding="utf-8")
    assert "aten::mm" in table
    assert column in table


def test_a_recording_that_cannot_start_leaves_its_reason(tmp_path: Path) -> None:
    """Another one is under way in the same thread."""
    first = Recording.start(target(tmp_path), who="first")
    assert first is not None
    assert Recording.start(target(tmp_path), who="second") is None
    first.stop()
    assert "nothing recorded of second" in (tmp_path / "step-000005-second-failed.txt").read_text(encoding="utf-8")
    assert (tmp_path / "step-000005-first.json.gz").is_file()


def test_a_recording_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert Recording.start(target(tmp_path / "file"), who="learner-0") is None
    recording = Recording.start(target(tmp_path / "profile"), who="learner-0")
    assert recording is not None
    (tmp_path / "profile").rmdir()
    (tmp_path / "profile").write_text("no directory")
    recording.stop()
