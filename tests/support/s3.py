"""An S3 endpoint on this machine, moto's, that can fail as real ones do."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID as ACCOUNT
from moto.server import create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>{message}</Message>'
    "<RequestId>0</RequestId></Error>"
)


class S3Endpoint:
    """What the server does with the requests that come.

    Attributes:
        url: of the directory ``run`` in an empty bucket.
        failing: the share of requests that are answered with an error of the server.
        needs_credentials: refuse what is not signed.
        requests, failed: how many came, and were failed.
    """

    def __init__(self, port: int) -> None:
        address = f"scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
        self.url = f"s3://{BUCKET}/run?{address}"
        self.failing = 0.0
        self.needs_credentials = False
        self.requests = self.failed = 0
        self._random = random.Random(0)
        self._lock = threading.Lock()

    def refusal(self, request: dict[str, Any]) -> tuple[str, str] | None:
        """Status and code of the error that a request gets."""
        with self._lock:
            self.requests += 1
            if self.needs_credentials and "HTTP_AUTHORIZATION" not in request:
                return "403 Forbidden", "AccessDenied"
            if self._random.random() < self.failing:
                self.failed += 1
                return "503 Service Unavailable", "SlowDown"
        return None


@contextmanager
def s3_endpoint() -> Iterator[S3Endpoint]:
    """The server with its bucket, while the context lasts."""
    backend = create_backend_app("s3")

    def answer(request: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        refusal = endpoint.refusal(request)
        if refusal is None:
            answered: Iterable[bytes] = backend(request, start)
            return answered
        request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        start(refusal[0], [("Content-Type", "application/xml")])
        return [_ERROR.format(code=refusal[1], message="as the test wants it").encode()]

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, answer, threaded=True)
    endpoint = S3Endpoint(server.port)
    backend.test_client().put(f"/{BUCKET}", headers={"Host": "127.0.0.1"})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        get_backend("s3")[ACCOUNT]["aws"].reset()
