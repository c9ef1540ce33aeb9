"""One page, for this machine alone, and nothing else of it."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from bolt_ray.commands.dashboard import Dashboard, serve_dashboard
from bolt_ray.core.errors import CheckpointError, ConfigError
from bolt_ray.training.run_directory import RunDirectory


class Served:
    """A dashboard whose page is the step in the run's state; asked over a socket."""

    def __init__(self, root: Path, host: str = "127.0.0.1") -> None:
        self.run = RunDirectory(root)
        self.made = 0
        self.write(1)
        self.server = Dashboard(host, 0, runs=[self.run], page=self.page)
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def write(self, step: int) -> None:
        self.run.root.mkdir(exist_ok=True)
        self.run.state.write_text(json.dumps({"step": step, "padding": "x" * step}))

    def page(self, runs: Sequence[Path]) -> str:
        self.made += 1
        assert list(runs) == [self.run.root]
        if not self.run.state.exists():
            raise CheckpointError("no state yet")
        return f"<p>step {json.loads(self.run.state.read_text())['step']} é \ud800</p>"

    def ask(self, path: str = "/", *, method: str = "GET", host: str | None = None) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest(method, path, skip_host=True)
        if host != "":
            connection.putheader("Host", host or f"127.0.0.1:{self.port}")
        connection.endheaders()
        answer = connection.getresponse()
        found = answer.status, dict(answer.getheaders()), answer.read().decode()
        connection.close()
        return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    it = Served(tmp_path / "run")
    yield it
    it.server.shutdown()
    it.thread.join()
    it.server.server_close()


def test_the_page_follows_the_run(served: Served) -> None:
    status, headers, body = served.ask()
    assert (status, body) == (200, "<p>step 1 é ?</p>")
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert (headers["Cache-Control"], headers["X-Frame-Options"]) == ("no-store", "DENY")
    assert served.ask("/?again")[2] == body
    assert served.made == 1, "nothing was written in between"
    served.write(2)
    assert served.ask()[2] == "<p>step 2 é ?</p>"
    assert served.ask(method="HEAD")[0::2] == (200, "")


@pytest.mark.parametrize("path", ["/state.json", "/..", "/../run/state.json", "//etc/passwd", "/%2e%2e/", "/run"])
def test_there_is_nothing_else(served: Served, path: str) -> None:
    status, _, body = served.ask(path)
    assert (status, body) == (404, "There is one page: /\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_can_only_be_read(served: Served, method: str) -> None:
    assert served.ask(method=method)[0] == 501


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:1234", 200),
        ("[::1]:8400", 200),
        ("127.9.9.9", 200),
        ("evil.example", 403),
        ("evil.example:8400", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost@evil.example", 403),
        ("192.168.0.7", 403),
        ("[::1", 403),
        ("", 403),
    ],
)
def test_a_name_that_points_here_from_elsewhere_is_refused(served: Served, host: str, status: int) -> None:
    assert served.ask(host=host)[0] == status
    assert served.made == (status == 200)


def test_a_run_that_cannot_be_read_now_is_asked_for_again(served: Served) -> None:
    served.run.state.unlink()
    status, headers, body = served.ask()
    assert (status, headers["Refresh"], body) == (503, "5", "no state yet\n")


def test_other_machines_are_let_in_only_when_that_is_said(tmp_path: Path) -> None:
    root = tmp_path / "run"
    RunDirectory(root).root.mkdir()
    RunDirectory(root).state.write_text("{}")
    for host in ("0.0.0.0", "::", "192.168.0.7", "node-a"):
        with pytest.raises(ConfigError, match=r"say --any-host.*ssh -L 8400:127\.0\.0\.1:8400"):
            serve_dashboard(root, host=host, port=8400, any_host=False, console=Console())
    served = Served(root, host="0.0.0.0")
    try:
        assert [served.ask(host=host)[0] for host in ("192.168.0.7:80", "localhost", "evil.example")] == [200, 200, 403]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127\.0\.0\.1:{served.port} .*another --port"):
            Dashboard("127.0.0.1", served.port, runs=[served.run], page=served.page)
    finally:
        served.server.shutdown()
        served.thread.join()
        served.server.server_close()
