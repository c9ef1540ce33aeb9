"""Runs an untrusted Python program: no network, no files but its own, all resources limited, nothing left afterwards.

Two mechanisms, the strongest that works on this machine is taken:

``namespaces``
    user, mount, pid, network, IPC and UTS namespaces, a private tree with the interpreter read-only and one small
    writable directory in memory, no ``/proc``; seccomp; Landlock where the kernel has it. When process 1 of the
    pid namespace ends, the kernel kills everything in it. Needs Linux 5.14 and unprivileged user namespaces.
``landlock``
    for machines (many containers) that forbid namespaces: Landlock confines file access to the interpreter and a
    fresh temporary directory, seccomp refuses sockets, child processes, signals and changes to file metadata.
    Needs Linux 6.2.

Each is tested before it is used: a probe program must run, and must fail to read a file outside, to open a socket,
and (``landlock``) to start a process. Without either mechanism :class:`Sandbox` raises, unless ``allow_unsafe``: then
the program gets resource limits and an empty environment, but no isolation.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.rewards.sandbox import kernel, seccomp
from bolt_ray.rewards.sandbox.host import interpreter_paths, package_root, remove_tree, sealed
from bolt_ray.rewards.sandbox.results import End, RunResult, SandboxLimits
from bolt_ray.rewards.sandbox.usage import memory_of_tree, size_of_directory

Mechanism = Literal["namespaces", "landlock", "none"]

PROGRAM = "main.py"
_WATCH_EVERY_S = 0.05
_KILL_GRACE_S = 5.0
_LAUNCH = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from bolt_ray.rewards.sandbox.launcher import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}


@dataclass(slots=True, kw_only=True)
class _Running:
    """One running program: its launcher and its output so far."""

    launcher: subprocess.Popen[bytes]
    deadline: float
    work_dir: str | None
    output: dict[str, bytearray] = field(default_factory=dict)
    end: End | None = None


class Sandbox:
    """Runs Python programs in isolation.

    Args:
        limits: of each run.
        mechanism: None takes the strongest that works.
        allow_unsafe: accept a machine without any mechanism.

    Raises:
        EnvironmentProblem: the mechanism asked for, or any at all, does not work here.
    """

    def __init__(
        self,
        *,
        limits: SandboxLimits,
        mechanism: Mechanism | None = None,
        allow_unsafe: bool = False,
    ) -> None:
        self.limits = limits
        self.mechanism: Mechanism = "none"
        refusals = []
        candidates: list[Mechanism] = [mechanism] if mechanism else ["namespaces", "landlock"]
        for candidate in candidates:
            self.mechanism = candidate
            problem = self._probe() if candidate != "none" else None
            if problem is None and (candidate != "none" or allow_unsafe):
                return
            refusals.append(f"{candidate}: {problem or 'not allowed'}")
        self.mechanism = "none"
        if not allow_unsafe or mechanism:
            raise EnvironmentProblem(
                f"no sandbox works on this machine ({'; '.join(refusals)}); code rewards need unprivileged user "
                "namespaces, or Linux 6.2 with Landlock. `allow_unsafe: true` runs programs without isolation: only "
                "for programs you would run yourself"
            )

    def describe(self) -> str:
        """The mechanism and its parts in one line."""
        abi = kernel.landlock_abi()
        landlock = f"Landlock ABI {abi}" if abi else "no Landlock"
        return {
            "namespaces": f"namespaces (user, mount, pid, net, ipc, uts) + seccomp + {landlock}",
            "landlock": f"{landlock} + seccomp, no child processes",
            "none": "NO SANDBOX: resource limits only",
        }[self.mechanism]

    def run(self, source: str, *, stdin: str = "", files: Mapping[str, str] | None = None) -> RunResult:
        """Run a Python program and wait for its end.

        Args:
            source: the program.
            stdin: what it reads from standard input.
            files: further files in its directory, by plain name.

        Raises:
            ValueError: a file name with a directory in it.
            EnvironmentProblem: the sandbox could not be set up this time; the program was not run.
        """
        everything = {**(files or {}), PROGRAM: source}
        if any(Path(name).name != name for name in everything):
            raise ValueError("file names in the sandbox have no directories")
        started = time.monotonic()
        work_dir = None if self.mechanism == "namespaces" else tempfile.mkdtemp(prefix="bolt-ray-sandbox-")
        try:
            return self._run(everything, stdin, work_dir, started)
        finally:
            if work_dir is not None:
                remove_tree(work_dir)

    def _run(self, files: Mapping[str, str], stdin: str, work_dir: str | None, started: float) -> RunResult:
        spec_fd = sealed(json.dumps(self._spec(files, work_dir)).encode())
        stdin_fd = sealed(stdin.encode("utf-8", errors="replace"))
        status_read, status_write = os.pipe()
        try:
            launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _LAUNCH, *map(str, (package_root(), spec_fd, status_write))],
                stdin=stdin_fd,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(spec_fd, status_write),
                env={},
                start_new_session=True,
            )
        finally:
            for fd in (spec_fd, stdin_fd, status_write):
                os.close(fd)
        running = _Running(launcher=launcher, deadline=started + self.limits.wall_s, work_dir=work_dir)
        with os.fdopen(status_read, "rb") as status:
            try:
                self._watch(running)
            finally:
                _stop(launcher)
            messages = [json.loads(line) for line in status.read().splitlines()]
        return self._result(running, messages, time.monotonic() - started)

    def _result(self, running: _Running, messages: Sequence[Mapping[str, Any]], wall_s: float) -> RunResult:
        output = {name: bytes(data).decode("utf-8", errors="replace") for name, data in running.output.items()}
        reported = {key: value for message in messages for key, value in message.items()}
        if "setup" in reported or (running.end is None and not reported):
            reason = reported.get("setup") or output.get("stderr", "")[-500:] or "the launcher ended"
            raise EnvironmentProblem(f"the sandbox ({self.mechanism}) could not be set up: {reason}")
        code = None if running.end else int(reported["exit"]) if "exit" in reported else -int(reported["signal"])
        end: End = running.end or ("exited" if "exit" in reported else "killed")
        out, err = output.get("stdout", ""), output.get("stderr", "")
        return RunResult(end=end, exit_code=code, stdout=out, stderr=err, wall_s=wall_s)

    def _watch(self, running: _Running) -> None:
        """Collect output until both pipes are closed and the launcher has ended, or a limit is exceeded."""
        budget = self.limits.output_kb * 1024
        pipes = {"stdout": running.launcher.stdout, "stderr": running.launcher.stderr}
        with selectors.DefaultSelector() as selector:
            for name, pipe in pipes.items():
                assert pipe is not None
                running.output[name] = bytearray()
                selector.register(pipe, selectors.EVENT_READ, name)
            next_look = time.monotonic() + _WATCH_EVERY_S
            while selector.get_map() and running.end is None:
                now = time.monotonic()
                for key, _ in selector.select(max(0.0, min(running.deadline, next_look) - now)):
                    data = os.read(key.fd, min(65536, budget + 1))
                    if not data:
                        selector.unregister(key.fileobj)
                    running.output[key.data] += data[:budget]
                    budget -= len(data)
                now = time.monotonic()
                if budget < 0:
                    running.end = "output"
                elif now >= running.deadline:
                    running.end = "wall_time"
                elif now >= next_look:
                    running.end = self._over_limit(running)
                    next_look = time.monotonic() + _WATCH_EVERY_S
        if running.end is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.launcher.wait(timeout=max(0.0, running.deadline - time.monotonic()))
            if running.launcher.poll() is None:
                running.end = "wall_time"

    def _over_limit(self, running: _Running) -> End | None:
        limit = self.limits.memory_mb * 1024 * 1024
        if memory_of_tree(running.launcher.pid, enough=limit) > limit:
            return "memory"
        disk = self._disk_bytes
        if running.work_dir and size_of_directory(running.work_dir, enough=disk) > disk:
            return "disk"
        return None

    @property
    def _disk_bytes(self) -> int:
        return 2 * self.limits.file_mb * 1024 * 1024

    def _spec(self, files: Mapping[str, str], work_dir: str | None) -> dict[str, Any]:
        interpreter = os.path.realpath(sys.executable)
        return {
            "namespaces": self.mechanism == "namespaces",
            "confine": self.mechanism != "none",
            "landlock": kernel.landlock_abi() > 0,
            "read_only": interpreter_paths(),
            "work_dir": work_dir,
            "files": dict(files),
            "command": [interpreter, "-s", "-B", PROGRAM],
            "environment": _ENVIRONMENT,
            "disk_bytes": self._disk_bytes,
            "rlimits": {
                "memory_bytes": self.limits.memory_mb * 1024 * 1024,
                "cpu_s": self.limits.cpu_s,
                "file_bytes": self.limits.file_mb * 1024 * 1024,
                "open_files": self.limits.open_files,
                "processes": self.limits.max_processes,
            },
        }

    def _probe(self) -> str | None:
        """Why the mechanism cannot be used here, or None if it works."""
        if not seccomp.supported():
            return "the system calls of this architecture are not known"
        if self.mechanism == "landlock" and kernel.landlock_abi() < 3:
            return "Landlock of Linux 6.2 or later is needed"
        with tempfile.NamedTemporaryFile(prefix="bolt-ray-canary-") as canary:
            questions = {"canary": canary.name, "children": self.mechanism == "namespaces"}
            try:
                result = self.run(_PROBE, stdin=json.dumps(questions))
            except EnvironmentProblem as problem:
                return str(problem)
        if result.ok and result.stdout.strip() == "isolated":
            return None
        return f"the probe got out or failed: {result.end} {result.exit_code} {result.stdout} {result.stderr}"[:500]


_PROBE = """
import json, os, socket, sys
asked = json.load(sys.stdin)
def refused(action):
    try:
        action()
    except OSError:
        return True
    return False
assert refused(lambda: open(asked["canary"])), "read a file outside"
assert refused(lambda: open("/etc/passwd")), "read /etc/passwd"
assert refused(lambda: socket.create_connection(("127.0.0.1", 9), 1)), "connected"
assert refused(lambda: socket.socket(socket.AF_INET)), "opened a socket"
assert refused(os.fork) or asked["children"], "started a process"
assert asked["children"] is False or os.getppid() == 1, "sees processes outside"
open("own", "w").write("x")
assert open("own").read() == "x"
print("isolated")
"""


def _stop(launcher: subprocess.Popen[bytes]) -> None:
    """End a launcher and the program with it; returns when both are gone."""
    if launcher.poll() is None:
        launcher.terminate()
        try:
            launcher.wait(timeout=_KILL_GRACE_S)
        except subprocess.TimeoutExpired:
            launcher.kill()
    launcher.wait()
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(launcher.pid, signal.SIGKILL)
    for pipe in (launcher.stdout, launcher.stderr):
        if pipe is not None:
            pipe.close()
