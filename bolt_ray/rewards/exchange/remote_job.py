"""Tests and program in one job of a service that runs one command: two processes, joined by a socket.

What keeps them apart is less than two sandboxes: the program has no capabilities, may not signal or trace others, start
processes or open sockets (seccomp), and the memory of the tests' process is hidden from it. Where the kernel has
Landlock, it reaches the interpreter's files and its own directory alone; without, the tests' process still imports
nothing from the job's directory. Tests and input come by standard input and are in no file.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from bolt_ray.rewards.exchange import program_side
from bolt_ray.rewards.exchange.tests_side import run_tests, silent_report
from bolt_ray.rewards.sandbox import kernel, seccomp
from bolt_ray.rewards.sandbox.host import interpreter_paths, package_root

_PROGRAM = (
    f"import sys; sys.path.insert(0, sys.argv[2]); from {__name__} import run_program; run_program(int(sys.argv[1]))"
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def main() -> None:
    """Run the tests of the job on standard input against the program it holds."""
    kernel.hide_memory()
    packages = package_root()
    _import_no_more_from(packages)
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryDirectory() as work, theirs:
        command = [sys.executable, "-s", "-B", "-c", _PROGRAM, str(theirs.fileno()), packages]
        # It starts before the tests are read: no copy of this process's memory has them.
        program = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            cwd=work,
            env={**os.environ, "HOME": work, "TMPDIR": work},
        )
        theirs.close()
        job = json.load(sys.stdin)
        try:
            run_tests(job, ours.detach(), silent_report(job["key"]))
        finally:
            program.kill()
            program.wait()


def _import_no_more_from(packages: str) -> None:
    """All that is needed of the job's directory is imported; the program may be able to write modules there."""
    gone = {os.path.realpath(packages), os.path.realpath("")}
    sys.path[:] = [path for path in sys.path if os.path.realpath(path) not in gone]


def run_program(fd: int) -> None:
    """The program's process: gives up what it may, then serves the tests."""
    _import_no_more_from(package_root())
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    if kernel.landlock_abi():
        readable = [*interpreter_paths(), sys.prefix, *sys.path]
        reachable = [path for path in _DEVICES if Path(path).exists()]
        kernel.landlock([path for path in readable if Path(path).exists()], [str(Path.cwd()), *reachable])
    seccomp.install(namespaces=False)
    program_side.main(fd)
