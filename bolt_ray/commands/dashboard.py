"""``bolt-ray dashboard``: the report of a run, served while the run goes on. Reads files only."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from bolt_ray.commands.shared.say import shown
from bolt_ray.commands.status.reading import find_run
from bolt_ray.core.errors import BoltRayError, ConfigError
from bolt_ray.core.secrets import is_loopback
from bolt_ray.training.run_directory import RunDirectory

Page = Callable[[Sequence[Path]], str]


class Dashboard(ThreadingHTTPServer):
    """Serves one page, to whoever asks for it by a name of this machine.

    Args:
        host, port: where it listens; port 0: any that is free.
        runs: what the page is of.
        page: makes it.

    Raises:
        ConfigError: it cannot listen there.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, *, runs: Sequence[RunDirectory], page: Page) -> None:
        self._runs = [run.root for run in runs]
        self._page = page
        self._made: tuple[list[tuple[str, int, int] | None], bytes] | None = None
        self._making = threading.Lock()
        try:
            if ":" in host:
                self.address_family = socket.AF_INET6
            super().__init__((host, port), _Answer)
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}); name another --port") from None
        self._names = {"localhost", host, *([] if is_loopback(host) else [socket.gethostname(), socket.getfqdn()])}

    def accepts(self, host: str | None) -> bool:
        """Whether a request's ``Host`` is of this machine.

        A page of another site may point a name of its own here (DNS rebinding) and would be let in by it; an address
        is no name.
        """
        try:
            name = urlsplit(f"//{host}").hostname if host else None
        except ValueError:
            return False
        if name is None:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name in {known.lower() for known in self._names}
        return address.is_loopback or not is_loopback(str(self.server_address[0]))

    def content(self) -> bytes:
        """The page, made anew if something was written since."""
        files = [path for root in self._runs for path in (root / "samples", *root.iterdir())]
        written = [_written(path) for path in files]
        with self._making:
            if self._made is None or self._made[0] != written:
                self._made = (written, self._page(self._runs).encode("utf-8", errors="replace"))
            return self._made[1]


class _Answer(BaseHTTPRequestHandler):
    server: Dashboard
    server_version = "bolt-ray"
    sys_version = ""
    timeout = 30.0

    def do_GET(self) -> None:
        if not self.server.accepts(self.headers.get("Host")):
            self._send(HTTPStatus.FORBIDDEN, b"This is not the host you asked for.\n")
        elif urlsplit(self.path).path != "/":
            self._send(HTTPStatus.NOT_FOUND, b"There is one page: /\n")
        else:
            try:
                content = self.server.content()
            except (BoltRayError, OSError, ValueError) as error:  # files that are just being written, for instance
                self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())
                return
            self._send(HTTPStatus.OK, content, kind="text/html; charset=utf-8")

    def do_HEAD(self) -> None:
        self.do_GET()

    def _send(self, status: HTTPStatus, content: bytes, *, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Refresh"] = "5"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal shows the address."""


def _written(path: Path) -> tuple[str, int, int] | None:
    try:
        found = path.stat()
    except OSError:  # gone since it was listed
        return None
    return path.name, found.st_mtime_ns, found.st_size


def serve_dashboard(run: Path | None, *, host: str, port: int, any_host: bool, console: Console) -> None:
    """Serve until interrupted.

    Args:
        run: its directory; None: the newest.
        any_host: whether other machines may be let in, with everything the run's files say and no password.

    Raises:
        CheckpointError: there is no such run.
        ConfigError: it cannot listen there, or other machines would be let in unasked.
    """
    found = find_run(run)
    if not is_loopback(host) and not any_host:
        raise ConfigError(
            f"--host {host} lets other machines in, without a password; say --any-host if that is meant. From afar an "
            f"SSH tunnel does: ssh -L {port}:127.0.0.1:{port} <machine>"
        )
    from bolt_ray.commands.report.report import report_html  # numpy and the page's parts: not for --help

    with Dashboard(host, port, runs=[found], page=lambda runs: report_html(runs, live=True)) as server:
        where, number = str(server.server_address[0]), server.server_address[1]
        address = f"[{where}]" if ":" in where else where
        console.print(
            f"{shown(found.root)} on http://{address}:{number}/ (Ctrl-C ends it)", markup=False, soft_wrap=True
        )
        server.serve_forever()
