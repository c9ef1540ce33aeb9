"""Tests and program in one job of a service that runs one command: two processes, joined by a socket.

What keeps them apart is less than two sandboxes: the program has no capabilities, may not signal or trace others, start
processes or open sockets (seccomp), and the memory of the tests' process is hidden from it. Tests and input come by
standard input and are in no file.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from bolt_ray.rewards.exchange import program_side
from bolt_ray.rewards.exchange.tests_side import run_tests, silent_report
from bolt_ray.rewards.sandbox import kernel, seccomp

_PROGRAM = (
    f"import sys; sys.path.insert(0, sys.argv[2]); from {__name__} import run_program; run_program(int(sys.argv[1]))"
)


def main() -> None:
    """Run the tests of the job on standard input against the program it holds."""
    kernel.hide_memory()
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryDirectory() as work, theirs:
        command = [sys.executable, "-s", "-B", "-c", _PROGRAM, str(theirs.fileno()), str(Path.cwd())]
        # It starts before the tests are read: no copy of this process's memory has them.
        program = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            cwd=work,
        )
        theirs.close()
        job = json.load(sys.stdin)
        try:
            run_tests(job, ours.detach(), silent_report())
        finally:
            program.kill()
            program.wait()


def run_program(fd: int) -> None:
    """The program's process: gives up what it may, then serves the tests."""
    kernel.drop_capabilities()
    kernel.no_new_privileges()
    seccomp.install(namespaces=False)
    program_side.main(fd)
