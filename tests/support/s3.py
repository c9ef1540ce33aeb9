"""An S3 endpoint on this machine, moto's, in a process of its own; it can fail as real ones do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

BUCKET = "bucket"


class S3Endpoint:
    """What the server does with the requests that come; see ``support.s3_process``.

    Attributes:
        url: of the directory ``run`` in an empty bucket.
    """

    def __init__(self, *, tell: IO[str], told: IO[str]) -> None:
        self._tell, self._told = tell, told
        address = f"scheme=http&endpoint_override=127.0.0.1:{int(told.readline())}&region=us-east-1"
        self.url = f"s3://{BUCKET}/run?{address}"

    def fail(self, share: float) -> None:
        """Answer this share of the requests with an error of the server."""
        self._ask(failing=share)

    def need_credentials(self) -> None:
        """Refuse what is not signed."""
        self._ask(needs_credentials=True)

    @property
    def requests(self) -> int:
        """How many came."""
        return int(self._ask()["requests"])

    @property
    def failed(self) -> int:
        """How many were failed."""
        return int(self._ask()["failed"])

    def _ask(self, **changes: Any) -> dict[str, Any]:
        self._tell.write(json.dumps(changes) + "\n")
        self._tell.flush()
        answer: dict[str, Any] = json.loads(self._told.readline())
        return answer


@contextmanager
def s3_endpoint() -> Iterator[S3Endpoint]:
    """The server with its bucket, while the context lasts."""
    command = [sys.executable, str(Path(__file__).with_name("s3_process.py")), BUCKET]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield S3Endpoint(tell=process.stdin, told=process.stdout)
        finally:
            process.kill()
