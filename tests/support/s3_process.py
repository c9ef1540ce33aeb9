"""The process behind ``support.s3``: moto's server, which fails requests as it is told on standard input.

moto brings Flask, whose global names raise when a library that looks through all modules touches them, as PyTorch's
compiler does; so it never comes into a process that has other things to do.
"""

from __future__ import annotations

import json
import logging
import random
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.server import create_backend_app
from werkzeug.serving import make_server

_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message>'
    "<RequestId>0</RequestId></Error>"
)


class Behavior:
    """What the server does with the requests that come, and how many came and were failed."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {"failing": 0.0, "needs_credentials": False}
        self.requests = self.failed = 0
        self._random = random.Random(0)
        self._lock = threading.Lock()

    def refusal(self, request: dict[str, Any]) -> tuple[str, str] | None:
        """Status and code of the error that a request gets."""
        with self._lock:
            self.requests += 1
            if self.told["needs_credentials"] and "HTTP_AUTHORIZATION" not in request:
                return "403 Forbidden", "AccessDenied"
            if self._random.random() < self.told["failing"]:
                self.failed += 1
                return "503 Service Unavailable", "SlowDown"
        return None


def main(bucket: str) -> None:
    """Say the port, then answer each line of changes with the counts, until the input ends."""
    behavior, backend = Behavior(), create_backend_app("s3")

    def answer(request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        refusal = behavior.refusal(request)
        if refusal is None:
            answered: Iterable[bytes] = backend(request, start)
            return answered
        request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        start(refusal[0], [("Content-Type", "application/xml")])
        return [_ERROR.format(code=refusal[1], message="as the test wants it").encode()]

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, answer, threaded=True)
    backend.test_client().put(f"/{bucket}", headers={"Host": "127.0.0.1"})
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    print(server.port, flush=True)
    for line in sys.stdin:
        behavior.told |= json.loads(line)
        print(json.dumps({"requests": behavior.requests, "failed": behavior.failed}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
