"""The box's side of the fork server (``launcher.py``): starts it, asks it for processes, replaces it when it died."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.rewards.sandbox.host import package_root

_KILL_GRACE_S = 5.0
_START = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from bolt_ray.rewards.sandbox.launcher import serve; exec(compile(*serve(int(sys.argv[2]))))"
)
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}
"""The server's, and with it every program's."""


class ForkServer:
    """Starts processes in boxes; one server for many programs, started when the first is asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while there is none."""
        return self._process.pid if self._process else None

    def start(self, fds: Sequence[int]) -> Supervisor:
        """A supervisor with these descriptors; see ``launcher.serve``.

        Raises:
            EnvironmentProblem: no server can be started, or it cannot fork.
        """
        with self._lock:
            try:
                answer = self._ask(b"run", fds)
            except OSError:
                self._end()  # it died since it was last asked; a new one has nothing of it
                try:
                    answer = self._ask(b"run", fds)
                except OSError as problem:
                    raise EnvironmentProblem(f"the sandbox's fork server does not answer: {self._end()}") from problem
        if not answer.isdigit():
            raise EnvironmentProblem(f"the sandbox could not be set up: {answer.decode()}")
        return Supervisor(int(answer), server=self)

    def reap(self, pid: int, *, server_pid: int | None) -> None:
        """Have a supervisor that has ended taken from the process table by the server that started it."""
        with self._lock, contextlib.suppress(OSError):  # a server that died has left none
            if self._process is not None and self._process.pid == server_pid:
                self._ask(b"reap %d" % pid, ())

    def close(self) -> None:
        """End the server and all it started."""
        with self._lock:
            self._end()

    def _ask(self, request: bytes, fds: Sequence[int]) -> bytes:
        if self._socket is None:
            self._launch()
        assert self._socket is not None
        socket.send_fds(self._socket, [request], fds)
        answer = self._socket.recv(1024)
        if not answer:
            raise ConnectionResetError("it ended")
        return answer

    def _launch(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            arguments = [os.path.realpath(sys.executable), "-s", "-S", "-B", "-c", _START]
            self._process = subprocess.Popen(
                [*arguments, package_root(), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                env=ENVIRONMENT,
                start_new_session=True,
                cwd="/",
            )
        self._socket = ours

    def _end(self) -> str:
        """End the server; the last it said."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is None:
            return ""
        errors: IO[bytes] | None = self._process.stderr
        assert errors is not None
        self._process.kill()
        self._process.wait()
        with errors:
            os.set_blocking(errors.fileno(), False)
            said = (errors.read() or b"").decode(errors="replace")[-500:]
        self._process = None
        return said


class Supervisor:
    """The process outside a box that ends it; not reaped until :meth:`stop`, so that its pid stays its own."""

    def __init__(self, pid: int, *, server: ForkServer) -> None:
        self.pid = pid
        self._server, self._server_pid = server, server.pid
        self._pidfd: int | None = None
        with contextlib.suppress(ProcessLookupError):  # the server died meanwhile
            self._pidfd = os.pidfd_open(pid)

    def ended(self, timeout_s: float) -> bool:
        """Whether it has ended, waiting so long at most."""
        if self._pidfd is None:
            return True
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(max(0.0, timeout_s) * 1000))

    def stop(self) -> None:
        """End it and its box with it; returns when all are gone."""
        if self._pidfd is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self.ended(0):
                signal.pidfd_send_signal(self._pidfd, number)
                self.ended(_KILL_GRACE_S)
        os.close(self._pidfd)
        self._pidfd = None
        self._server.reap(self.pid, server_pid=self._server_pid)
