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
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.rewards.sandbox import kernel, seccomp
from bolt_ray.rewards.sandbox.host import interpreter_paths, remove_tree, sealed
from bolt_ray.rewards.sandbox.launcher import PROGRAM
from bolt_ray.rewards.sandbox.probe import PROBE
from bolt_ray.rewards.sandbox.results import End, RunResult, SandboxLimits
from bolt_ray.rewards.sandbox.server import ForkServer, Supervisor
from bolt_ray.rewards.sandbox.usage import memory_of_tree, size_of_directory

Mechanism = Literal["namespaces", "landlock", "none"]

_WATCH_EVERY_S = 0.05
_TESTS = "from bolt_ray.rewards.exchange.tests_side import main; main()"
_TESTED = "from bolt_ray.rewards.exchange.program_side import main; main()"


@dataclass(slots=True, kw_only=True)
class _Box:
    """One running program, its pipes and its output so far; at the end, what its supervisor reported."""

    supervisor: Supervisor
    pipes: Mapping[str, IO[bytes]]
    work_dir: str | None
    output: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    reported: dict[str, Any] = field(default_factory=dict)


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
        self._server = ForkServer()
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

    def run(
        self, source: str, *, stdin: str = "", files: Mapping[str, str] | None = None, peer: str | None = None
    ) -> RunResult:
        """Run a Python program and wait for its end.

        Args:
            source: the program.
            stdin: what it reads from standard input.
            files: further files in its directory, by plain name.
            peer: a second program, in a box of its own, which ends when the first does; its output is dropped. A socket
                is all they share: descriptor 3 of both.

        Raises:
            ValueError: a file name with a directory in it.
            EnvironmentProblem: the sandbox could not be set up this time; the program was not run.
        """
        everything = {**(files or {}), PROGRAM: source}
        if any(Path(name).name != name for name in everything):
            raise ValueError("file names in the sandbox have no directories")
        started = time.monotonic()
        with contextlib.ExitStack() as stack:
            boxes = []
            if peer is None:
                boxes.append(stack.enter_context(self._box(everything, stdin)))
            else:
                for files_of_one, end in zip((everything, {PROGRAM: peer}), socket.socketpair(), strict=True):
                    with end:
                        boxes.append(stack.enter_context(self._box(files_of_one, stdin, channel=end.fileno())))
                    stdin = ""
            ended = self._watch(boxes, deadline=started + self.limits.wall_s)
        for box in boxes[1:]:
            self._refuse_failed_setup(box)
        return self._result(boxes[0], ended, time.monotonic() - started)

    def run_tests(self, job: str) -> RunResult:
        """Run tests in one box against the program in another; see ``exchange/tests_side.py`` for job and output."""
        return self.run(_TESTS, stdin=job, peer=_TESTED)

    def close(self) -> None:
        """End the fork server; the next run starts another."""
        self._server.close()

    @contextlib.contextmanager
    def _box(self, files: Mapping[str, str], stdin: str, channel: int | None = None) -> Iterator[_Box]:
        """A running program; afterwards it is gone, with all it started and wrote."""
        with contextlib.ExitStack() as stack:
            work_dir = None
            if self.mechanism != "namespaces":
                work_dir = tempfile.mkdtemp(prefix="bolt-ray-sandbox-")
                stack.callback(remove_tree, work_dir)
            pipes = {name: os.pipe() for name in ("status", "stdout", "stderr")}
            readers = {name: stack.enter_context(os.fdopen(ends[0], "rb")) for name, ends in pipes.items()}
            fds = [sealed(json.dumps(self._spec(files, work_dir)).encode()), pipes["status"][1]]
            fds += [sealed(stdin.encode("utf-8", errors="replace")), pipes["stdout"][1], pipes["stderr"][1]]
            try:
                supervisor = self._server.start(fds if channel is None else [*fds, channel])
            finally:
                for fd in fds:
                    os.close(fd)
            box = _Box(supervisor=supervisor, pipes=readers, work_dir=work_dir)
            try:
                yield box
            finally:
                supervisor.stop()
                lines = readers["status"].read().splitlines()
                box.reported = {key: value for line in lines for key, value in json.loads(line).items()}

    def _refuse_failed_setup(self, box: _Box) -> None:
        if "setup" in box.reported:
            raise EnvironmentProblem(
                f"the sandbox ({self.mechanism}) could not be set up: {box.reported['setup'] or 'it ended'}"
            )

    def _result(self, box: _Box, end: End | None, wall_s: float) -> RunResult:
        if end is None and not box.reported:
            box.reported["setup"] = ""
        self._refuse_failed_setup(box)
        out, err = (box.output[name].decode("utf-8", errors="replace") for name in ("stdout", "stderr"))
        reported = box.reported
        code = None if end else int(reported["exit"]) if "exit" in reported else -int(reported["signal"])
        end = end or ("exited" if "exit" in reported else "killed")
        return RunResult(end=end, exit_code=code, stdout=out, stderr=err, wall_s=wall_s)

    def _watch(self, boxes: Sequence[_Box], *, deadline: float) -> End | None:
        """Collect output until the first box has ended (None), or a limit is exceeded (which)."""
        budget = self.limits.output_kb * 1024
        with selectors.DefaultSelector() as selector:
            for box in boxes:
                for name in box.output:
                    selector.register(box.pipes[name], selectors.EVENT_READ, (box, name))
            next_look = time.monotonic() + _WATCH_EVERY_S
            while any(key.data[0] is boxes[0] for key in selector.get_map().values()):
                now = time.monotonic()
                for key, _ in selector.select(max(0.0, min(deadline, next_look) - now)):
                    box, name = key.data
                    data = os.read(key.fd, min(65536, budget + 1))
                    if not data:
                        selector.unregister(key.fileobj)
                    if box is boxes[0]:
                        box.output[name] += data[:budget]
                    budget -= len(data)
                now = time.monotonic()
                if budget < 0:
                    return "output"
                if now >= deadline:
                    return "wall_time"
                if now >= next_look:
                    for box in boxes:
                        if over := self._over_limit(box):
                            return over
                    next_look = time.monotonic() + _WATCH_EVERY_S
        return None if boxes[0].supervisor.ended(deadline - time.monotonic()) else "wall_time"

    def _over_limit(self, box: _Box) -> End | None:
        limit = self.limits.memory_mb * 1024 * 1024
        if memory_of_tree(box.supervisor.pid, enough=limit) > limit:
            return "memory"
        disk = self._disk_bytes
        if box.work_dir and size_of_directory(box.work_dir, enough=disk) > disk:
            return "disk"
        return None

    @property
    def _disk_bytes(self) -> int:
        return 2 * self.limits.file_mb * 1024 * 1024

    def _spec(self, files: Mapping[str, str], work_dir: str | None) -> dict[str, Any]:
        return {
            "namespaces": self.mechanism == "namespaces",
            "confine": self.mechanism != "none",
            "landlock": kernel.landlock_abi() > 0,
            "read_only": interpreter_paths(),
            "work_dir": work_dir,
            "files": dict(files),
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
                result = self.run(PROBE, stdin=json.dumps(questions))
            except EnvironmentProblem as problem:
                return str(problem)
        if result.ok and result.stdout.strip() == "isolated":
            return None
        return f"the probe got out or failed: {result.end} {result.exit_code} {result.stdout} {result.stderr}"[:500]
