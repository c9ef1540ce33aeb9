"""As much of a wandb server as a run needs, and one that never answers."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer(ThreadingHTTPServer):
    """Keeps all it is sent in ``received``; of samples' tables it knows nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.received: list[tuple[str, str]] = []

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows logged, in order."""
        streams = [json.loads(body)["files"] for path, body in self.received if path.endswith("/file_stream") and body]
        files = [stream["wandb-history.jsonl"] for stream in streams if stream and "wandb-history.jsonl" in stream]
        return [json.loads(line) for file in files for line in file["content"]]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        text = body.decode(errors="replace")
        self.server.received.append((self.path, text))
        answer = json.dumps({"data": self._data(json.loads(text))} if self.path == "/graphql" else {}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def _data(self, request: dict[str, Any]) -> dict[str, Any]:
        variables = request.get("variables") or {}
        if "UpsertBucket" in request["query"]:
            project = {"name": "project", "entity": {"name": "me"}}
            bucket = {"id": "id", "name": variables["name"], "displayName": "run", "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0, "sweepName": None}, "inserted": True}}
        if "CreateRunFiles" in request["query"]:
            files = [{"name": name, "uploadUrl": f"{self.server.url}/upload"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "id", "uploadHeaders": [], "files": files}}
        return {"model": None}

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - the library's names

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    server = WandbServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def silent_server(asked: threading.Event) -> Iterator[str]:
    """The URL of a server that takes connections, says so by ``asked``, and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept = []

        def accept() -> None:
            while True:
                try:
                    kept.append(listener.accept()[0])
                except OSError:
                    return
                asked.set()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    for connection in kept:
        connection.close()
