"""Joining a cluster: bounded, with this process's signal handlers; its processes' output; where GPUs may come from."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bolt_ray.actors.process_output import log_lines
from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.commands.shared.gpus import gpus_of, names_running_ray
from bolt_ray.commands.shared.join import join_ray, kept_signal_handlers
from bolt_ray.config.loading import build_config
from bolt_ray.core.errors import ConfigError, EnvironmentProblem


def test_a_cluster_that_does_not_answer_is_not_waited_for_without_end() -> None:
    with socket.socket() as sick:  # takes the connection, and says nothing
        sick.bind(("127.0.0.1", 0))
        sick.listen()
        address = f"127.0.0.1:{sick.getsockname()[1]}"
        with pytest.raises(EnvironmentProblem, match=rf"cluster.address {address}: (the|no) Ray"):
            join_ray(address, timeout_s=0.5)


def test_signal_handlers_are_those_from_before() -> None:
    def mine(number: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        with kept_signal_handlers():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(15))  # as ray.init does
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_before_a_run_has_begun_ends_it_with_130_and_one_line(tmp_path: Path) -> None:
    """A named pipe in the place of the config: reading it waits until somebody writes."""
    config = tmp_path / "config.yaml"
    os.mkfifo(config)
    command = [sys.executable, "-m", "bolt_ray.cli", "train", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    writer = None
    try:
        deadline = time.monotonic() + 120
        while writer is None:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
            writer = _writer(config)
        process.terminate()
        printed, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        if writer is not None:
            os.close(writer)
    assert process.returncode == 130
    assert printed.strip() == "error: interrupted"


def _writer(pipe: Path) -> int | None:
    """The pipe's other end, once somebody waits for what comes through it."""
    try:
        return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


def test_lines_of_a_process_are_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="bolt_ray"):
        log_lines(
            {"lines": ["one", " ", "two"], "pid": 7, "ip": "10.0.0.2", "actor_name": "generator-1", "is_err": True}
        )
        log_lines({"lines": ["three"], "pid": 8, "ip": "10.0.0.3", "actor_name": None, "task_name": "map"})
        log_lines({"lines": ["four"], "pid": 9, "ip": "10.0.0.3"})
        log_lines({"lines": ["Usage: 0 CPUs", ":event_summary:1 node added"], "pid": "autoscaler", "ip": "10.0.0.1"})
    assert [record.getMessage() for record in caplog.records] == [
        "generator-1 (pid 7 on 10.0.0.2): one",
        "generator-1 (pid 7 on 10.0.0.2): two",
        "map (pid 8 on 10.0.0.3): three",
        "process (pid 9 on 10.0.0.3): four",
        "autoscaler (pid autoscaler on 10.0.0.1): 1 node added",
    ]


@pytest.mark.parametrize(
    ("have", "at_most", "expected"),
    [
        ({"CPU": 8.0}, None, False),
        ({"CPU": 8.0, "GPU": 4.0}, None, True),
        ({"CPU": 8.0}, {"CPU": 100, "GPU": 16}, True),
        ({"CPU": 8.0}, {"CPU": 100, "GPU": 0}, False),
    ],
)
def test_gpus_that_an_autoscaler_may_bring_count(have: Any, at_most: Any, expected: bool) -> None:
    assert gpus_of(have, at_most) is expected


def test_auto_is_refused_where_nodes_have_yet_to_come() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.use_gpu: auto looks at the GPUs there are now"):
        build_config({"cluster": {"wait_for_nodes": True}})
    assert ClusterSettings(wait_for_nodes=True, use_gpu="no").wait_for_nodes


def test_a_running_ray_is_joined_where_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert (names_running_ray(None), names_running_ray("local"), names_running_ray("auto")) == (False, False, True)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert (names_running_ray(None), names_running_ray("local")) == (True, False)
