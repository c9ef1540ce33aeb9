"""Debian's Prometheus beside a Ray, with the settings that ship; and what the dashboard asks it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
DASHBOARD: dict[str, Any] = json.loads((CLUSTER / "grafana" / "bolt-ray.json").read_text(encoding="utf-8"))


def expressions() -> list[str]:
    """Every query of the dashboard, for all runs."""
    panels = DASHBOARD["panels"]
    return [target["expr"].replace("$run", ".+") for panel in panels for target in panel.get("targets", [])]


def names_in(expression: str) -> set[str]:
    """The metrics of a query."""
    return set(re.findall(r"\bray_\w+", expression))


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        """The ``data`` of an answer of its API; an error of the query raises `urllib.error.HTTPError`."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30.0) as answer:
            found = json.loads(answer.read())
        assert found["status"] == "success", found
        return found["data"]

    def value(self, expression: str) -> float | None:
        """The first number that a query gives now; None if it gives none."""
        found = self.ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None


@contextmanager
def prometheus(directory: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Scrape ``targets`` (host:port) every second, as the shipped settings say but for that and where the list is."""
    nodes = directory / "nodes.json"
    nodes.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": list(targets)}]))
    settings = yaml.safe_load((CLUSTER / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    settings["global"]["scrape_interval"] = "1s"
    settings["scrape_configs"][0]["file_sd_configs"][0]["files"] = [str(nodes)]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(settings))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        server = Prometheus(f"http://{address}")
        _wait_ready(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(30.0)


def _wait_ready(server: Prometheus, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60.0
    while True:
        assert process.poll() is None, "Prometheus ended"
        assert time.monotonic() < deadline, "Prometheus is not ready"
        try:
            urllib.request.urlopen(f"{server.url}/-/ready", timeout=5.0).close()
            return
        except OSError:
            time.sleep(0.1)
