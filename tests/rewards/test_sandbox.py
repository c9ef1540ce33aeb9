"""The sandbox against hostile programs: all are contained, the host is unharmed, nothing is left."""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hostile_programs import ENDS, PREAMBLE, PROCESSES, REFUSED

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.rewards.sandbox.box import Mechanism, Sandbox
from bolt_ray.rewards.sandbox.results import RunResult, SandboxLimits
from bolt_ray.rewards.sandbox.usage import descendants

LIMITS = SandboxLimits(wall_s=30.0, cpu_s=20, memory_mb=256, max_processes=12, file_mb=8, output_kb=64)
SHORT = dataclasses.replace(LIMITS, wall_s=1.5, cpu_s=1)  # for programs that end no other way
CANARY = "the host's own\n"
STARTED = {"zombies": 10, "daemon": 1, "daemon_that_keeps_the_output_open": 1, "stopped_children": 3}
# One of each kind of wall: files, network, processes, seccomp, capabilities, sealed input, limits.
FAST = {
    "read_canary",
    "tcp_to_the_host",
    "kill_a_process_outside",
    "odd_system_calls",
    "write_to_stdin",
    "huge_output",
    "daemon",
}


@pytest.fixture(scope="module", params=["namespaces", "landlock"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    mechanism: Mechanism = request.param
    try:
        return Sandbox(limits=LIMITS, mechanism=mechanism)
    except EnvironmentProblem as problem:
        pytest.skip(f"this machine has no {mechanism}: {problem}")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Things of the host's that a program could harm: a file, a process, listening sockets."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans of the sandbox become our children
    outside = tmp_path_factory.mktemp("outside")
    (outside / "canary").write_text(CANARY)
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={"SECRET": "s3cret"})
    tcp = socket.create_server(("127.0.0.1", 0))
    with tempfile.TemporaryDirectory() as short, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"{short}/s")
        unix.listen()
        abstract = socket.socket(socket.AF_UNIX)
        abstract.bind(f"\0bolt-ray-test-{os.getpid()}")
        abstract.listen()
        for server in (tcp, unix, abstract):
            server.setblocking(False)
        yield {
            "canary": str(outside / "canary"),
            "outside": str(outside),
            "victim": victim.pid,
            "port": tcp.getsockname()[1],
            "unix": f"{short}/s",
            "abstract": f"bolt-ray-test-{os.getpid()}",
            "process": victim,
            "servers": (tcp, unix, abstract),
        }
        tcp.close()
        abstract.close()
    victim.kill()
    victim.wait()


@pytest.fixture
def run(sandbox: Sandbox, host: dict[str, Any]) -> Iterator[Any]:
    """Runs a program, then checks that the host is as it was and that the sandbox still works."""
    before = set(descendants(os.getpid()))
    temporary = set(Path(tempfile.gettempdir()).glob("bolt-ray-sandbox-*"))
    facts = {key: host[key] for key in ("canary", "outside", "victim", "port", "unix", "abstract")}
    facts["may_chmod"] = sandbox.mechanism == "namespaces"

    def run_with(source: str, limits: SandboxLimits = LIMITS) -> RunResult:
        sandbox.limits = limits
        try:
            return sandbox.run(PREAMBLE + source, stdin=json.dumps(facts))
        finally:
            sandbox.limits = LIMITS

    yield run_with

    canary = Path(host["canary"])
    assert canary.read_text() == CANARY
    assert canary.stat().st_mode & 0o777 == 0o644 and canary.stat().st_mtime > 1_000_000
    assert [path.name for path in canary.parent.iterdir()] == ["canary"]
    assert host["process"].poll() is None
    assert os.getpriority(os.PRIO_PROCESS, host["victim"]) == os.getpriority(os.PRIO_PROCESS, 0)
    for server in host["servers"]:
        with pytest.raises(BlockingIOError):
            server.accept()
    assert set(descendants(os.getpid())) - before == set()
    assert set(Path(tempfile.gettempdir()).glob("bolt-ray-sandbox-*")) <= temporary
    assert sandbox.run("print(input())", stdin="still here\n").stdout == "still here\n"


def some_fast(names: Iterable[str], fast: set[str]) -> list[Any]:
    """All names as parameters; but a few are left to the slow tests."""
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


def test_a_sandbox_works_on_this_machine() -> None:
    try:
        problem, description = "", Sandbox(limits=LIMITS).describe()
    except EnvironmentProblem as error:
        problem, description = str(error), ""
    if problem and os.environ.get("BOLT_RAY_NO_SANDBOX") == "1":
        pytest.skip("BOLT_RAY_NO_SANDBOX=1: neither the sandbox nor the `code` reward is tested here")
    assert not problem, (
        f"{problem}.\nEvery test of the sandbox and of the `code` reward is skipped on this machine. Where that "
        "cannot be helped (a container that forbids both mechanisms), accept it with BOLT_RAY_NO_SANDBOX=1"
    )
    assert "seccomp" in description


@pytest.mark.parametrize("name", some_fast(REFUSED, FAST))
def test_nothing_forbidden_works(name: str, run: Any) -> None:
    result = run(REFUSED[name])
    assert "ESCAPED" not in result.stdout and "UNPROVEN" not in result.stdout, result.stdout
    assert "refused" in result.stdout or result.end in ("killed", "disk")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("name", some_fast(ENDS, FAST))
def test_every_program_ends(name: str, run: Any) -> None:
    source, ends = ENDS[name]
    started = time.monotonic()
    result = run(source, SHORT if "wall_time" in ends else LIMITS)
    end = "error" if result.end == "exited" and result.exit_code else result.end
    assert end in ends, result
    assert time.monotonic() - started < LIMITS.wall_s + 5
    assert len(result.stdout) + len(result.stderr) <= LIMITS.output_kb * 1024


@pytest.mark.parametrize("name", some_fast(PROCESSES, FAST))
def test_no_process_survives(name: str, run: Any, sandbox: Sandbox) -> None:
    result = run(PROCESSES[name])
    started = [int(number) for number in re.findall(r"started (\d+)", result.stdout)]
    if sandbox.mechanism == "landlock":
        assert result.stdout.startswith("fork refused\n") and started in ([], [0])
    elif name == "many_memory_hogs":
        assert result.end == "memory"
    elif name == "fork_bomb":
        assert 1 <= started[0] < LIMITS.max_processes and "fork refused" in result.stdout
    elif name == "exponential_fork_bomb":
        assert "fork refused" in result.stdout
    else:
        assert started == [STARTED[name]]


def test_the_program_sees_an_environment_of_its_own(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOLT_RAY_TEST_SECRET", "s3cret")
    result = sandbox.run("import os; print(sorted(os.environ)); print(os.environ['HOME'] == os.getcwd())")
    assert "BOLT_RAY_TEST_SECRET" not in result.stdout
    assert result.stdout.endswith("True\n")


def test_output_input_files_and_status(sandbox: Sandbox) -> None:
    source = "import sys; print(open('data.txt').read() + input()); sys.stderr.write('é'); sys.exit(3)"
    result = sandbox.run(source, stdin="b\n", files={"data.txt": "a"})
    assert (result.end, result.exit_code, result.stdout, result.stderr) == ("exited", 3, "ab\n", "é")
    assert not result.ok
    assert sandbox.run("").ok


def test_a_file_name_with_a_directory_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="no directories"):
        sandbox.run("", files={"../x": ""})


@pytest.mark.slow
def test_no_mechanism_is_a_refusal_unless_allowed() -> None:
    with pytest.raises(EnvironmentProblem, match="no sandbox works"):
        Sandbox(mechanism="none", limits=SHORT)
    allowed = Sandbox(mechanism="none", allow_unsafe=True, limits=SHORT)
    assert allowed.describe() == "NO SANDBOX: resource limits only"
    assert allowed.run("print(6 * 7)").stdout == "42\n"
    assert allowed.run("while True: pass").end in ("wall_time", "killed")
