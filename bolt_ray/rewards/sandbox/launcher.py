"""The fork server, and how it isolates a program; a separate process of ``sandbox.server``.

    box ─▶ server ─▶ supervisor ─▶ init (process 1 of its namespace) ─▶ program ─▶ …
                        └─ SIGTERM: kills init, and with it all that is in the namespace, then reaps it

The server has one thread, an environment of its own and nothing in memory but this package's standard-library modules:
it never reads a program or a test. What it forks builds its own namespaces, file tree and limits, as if it had been
started alone; only the start of an interpreter is saved. It ends when its socket closes, and all below it with it.

The status pipe carries one JSON object a line: ``{"setup": message}`` when the sandbox could not be set up (the program
is not run), ``{"exit": code}`` or ``{"signal": number}`` when the program ended.
"""

from __future__ import annotations

import fcntl
import gc
import json
import os
import resource
import signal
import site
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

# The two sides of the tests are imported here once, since a program's box does not hold this package.
from bolt_ray.rewards.exchange import program_side, tests_side  # noqa: F401
from bolt_ray.rewards.sandbox import kernel, seccomp
from bolt_ray.rewards.sandbox.namespaces import DEVICES, INNER_ID, WORK_DIR, enter_namespaces, write_files

PROGRAM = "main.py"
_RESERVE_PROCESSES = 3
_MAX_FDS = 6
_ALL_FDS = 1 << 20
_ABOVE = 64
"""Descriptors from here on are the supervisor's own."""


Program = tuple[bytes, str, str, int, bool]  # the arguments of `compile`


def serve(server_fd: int) -> Program:
    """Fork for each request until the socket closes. Returns in a program's process alone, isolated, with its source.

    Requests are ``run``, with the descriptors of specification, status, stdin, stdout, stderr and maybe one more, and
    answered with the supervisor's pid; and ``reap <pid>``, of a supervisor that has ended.
    """
    packages = sys.path.pop(0)
    sys.path[:] = [path for path in sys.path if path not in ("", packages)] + site.getsitepackages()
    site.setquit()
    site.setcopyright()
    site.sethelper()
    for namespaces in (True, False) if seccomp.supported() else ():
        seccomp.packed_filter(namespaces=namespaces)
    gc.freeze()
    server, own_pid = socket.socket(fileno=server_fd), os.getpid()
    while True:
        request, fds, _, _ = socket.recv_fds(server, 64, _MAX_FDS)
        if not request:
            os._exit(0)
        if request.startswith(b"reap"):
            os.waitpid(int(request[4:]), 0)
            server.send(b"reaped")
            continue
        try:
            pid = os.fork()
        except OSError as problem:
            pid = -1
            server.send(f"the server cannot fork: {problem}".encode())
        if pid == 0:
            server.close()
            return _supervise(fds, own_pid)
        for fd in fds:
            os.close(fd)
        if pid > 0:
            server.send(str(pid).encode())


def _supervise(given: Sequence[int], server_pid: int) -> Program:
    """Isolate and run what the specification asks for; returns in the program's process alone."""
    kernel.die_with_parent()
    if os.getppid() != server_pid:  # it died before that was said
        os._exit(1)
    os.setsid()
    # Above all that is open, so that none is overwritten while they move to 0, 1, 2 and 3.
    spec_fd, status_fd, *standard = (fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _ABOVE) for fd in given)
    for target, fd in enumerate(standard):
        os.dup2(fd, target)
    os.closerange(len(standard), _ABOVE)
    with os.fdopen(spec_fd, "rb") as file:
        spec = json.load(file)
    (go_read, go_write), (ready_read, ready_write) = os.pipe(), os.pipe()
    try:
        mapped_root = enter_namespaces(spec) if spec["namespaces"] else False
    except OSError as problem:
        _report(status_fd, {"setup": str(problem)})
        os._exit(1)
    child = os.fork()
    if child == 0:
        kernel.die_with_parent()
        os.close(go_write)
        os.write(ready_write, b"x")
        if not os.read(go_read, 1):  # the supervisor ended before it could look after this process
            os._exit(1)
        if spec["namespaces"] and (program := os.fork()):
            _be_init(program, status_fd)
        return _become_program(spec, status_fd, num_fds=len(standard), mapped_root=mapped_root)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    os.close(ready_write)
    os.read(ready_read, 1)  # from here on the child dies with this process
    os.write(go_write, b"x")
    _, status = os.waitpid(child, 0)
    if not spec["namespaces"]:
        _report(status_fd, _ended(status))
    os._exit(0)


def _be_init(program: int, status_fd: int) -> NoReturn:
    """Process 1 of the namespace: reaps everything; when it ends, the kernel kills what is left there."""
    os.closerange(0, status_fd)  # the pipes close when the program's own processes close them
    while True:
        pid, status = os.wait()
        if pid == program:
            _report(status_fd, _ended(status))
            os._exit(0)


def _become_program(spec: Mapping[str, Any], status_fd: int, *, num_fds: int, mapped_root: bool) -> Program:
    """Set limits, isolate, and hand back the program. What fails before that is reported as no verdict."""
    try:
        work = WORK_DIR if spec["namespaces"] else spec["work_dir"]
        if not spec["namespaces"]:
            write_files(spec, work)
        os.chdir(work)
        os.setsid()
        _limit(spec, own_id=mapped_root)
        if mapped_root:
            os.setgroups([])
            os.setresgid(INNER_ID, INNER_ID, INNER_ID)
            os.setresuid(INNER_ID, INNER_ID, INNER_ID)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if spec["confine"]:
            kernel.drop_capabilities()
            kernel.no_new_privileges()
            if spec["landlock"]:
                devices = [f"/dev/{name}" for name in DEVICES]
                kernel.landlock(spec["read_only"], [work, *devices])
            seccomp.install(namespaces=spec["namespaces"])
    except OSError as problem:
        _report(status_fd, {"setup": str(problem)})
        os._exit(127)
    os.closerange(num_fds, _ALL_FDS)
    return _as_main(work)


def _as_main(work: str) -> Program:
    """Make this interpreter look as if it had been started with the program, and read that."""
    os.environ.update(HOME=work, TMPDIR=work)
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        errors = "backslashreplace" if fd == 2 else "surrogateescape"
        stream = open(fd, "w" if fd else "r", encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    path = f"{work}/{PROGRAM}"
    sys.argv[:] = [PROGRAM]
    sys.path.insert(0, work)
    main = vars(sys.modules["__main__"])
    for name in ("sys", "serve"):
        del main[name]
    main["__file__"] = path
    return Path(path).read_bytes(), path, "exec", 0, True


def _limit(spec: Mapping[str, Any], *, own_id: bool) -> None:
    limits = spec["rlimits"]
    processes = limits["processes"] + (0 if own_id else _RESERVE_PROCESSES)
    values = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if spec["namespaces"]:
        values[resource.RLIMIT_NPROC] = processes
    for kind, value in values.items():
        _, hard = resource.getrlimit(kind)
        value = value if hard < 0 else min(value, hard)
        resource.setrlimit(kind, (value, value))


def _ended(status: int) -> dict[str, int]:
    code = os.waitstatus_to_exitcode(status)
    return {"exit": code} if code >= 0 else {"signal": -code}


def _report(status_fd: int, message: Mapping[str, Any]) -> None:
    os.write(status_fd, json.dumps(message).encode() + b"\n")
