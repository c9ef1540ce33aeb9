"""A service that answers SandboxFusion's ``POST /run_code``, on this machine, with the local sandbox."""

from __future__ import annotations

import base64
import json
from typing import Any

from bolt_ray.rewards.sandbox.box import Sandbox
from bolt_ray.rewards.sandbox.results import SandboxLimits

FIELDS = {
    "code",
    "language",
    "stdin",
    "compile_timeout",
    "run_timeout",
    "memory_limit_MB",
    "files",
    "fetch_files",
}

# A kernel without Landlock: landlock_create_ruleset fails with ENOSYS.
_WITHOUT_LANDLOCK = """
import ctypes, struct
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, 444), (6, 0, 0, 0x50026), (6, 0, 0, 0x7FFF0000)]
code = b"".join(struct.pack("=HBBI", *step) for step in steps)
buffer = ctypes.create_string_buffer(code, len(code))
assert ctypes.CDLL(None).prctl(22, 2, struct.pack("@HP", len(steps), ctypes.addressof(buffer)), 0, 0) == 0
"""
# As the service does it: the files and the code in a directory, and an interpreter on the code.
_RUN = """
import json, os, pathlib, sys
given = json.load(open("given.json"))
for name, text in given.items():
    path = pathlib.Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
os.execv(sys.executable, [sys.executable, "code.py"])
"""


class CodeService:
    """What the service does with a request; ``requests`` are those it had, ``landlock``: whether its kernel has it."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.landlock = True

    def answer(self, request: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        assert set(request) == FIELDS and request["language"] == "python" and request["fetch_files"] == []
        self.requests.append(request)
        limits = SandboxLimits(
            wall_s=request["run_timeout"],
            cpu_s=20,
            memory_mb=request["memory_limit_MB"],
            max_processes=16,
            file_mb=16,
            output_kb=4096,
        )
        files = {name: base64.b64decode(content).decode() for name, content in request["files"].items()}
        sandbox = Sandbox(limits=limits, mechanism="namespaces")
        try:
            given = json.dumps({**files, "code.py": request["code"]})
            source = _RUN if self.landlock else _WITHOUT_LANDLOCK + _RUN
            result = sandbox.run(source, stdin=request["stdin"], files={"given.json": given})
        finally:
            sandbox.close()
        ran = {
            "status": "TimeLimitExceeded" if result.end == "wall_time" else "Finished",
            "execution_time": result.wall_s,
            "return_code": result.exit_code,
            "stdout": result.stdout,
            "stderr": result.stderr,
        }
        status = "Success" if result.ok else "Failed"
        return 200, {"status": status, "message": "", "compile_result": None, "run_result": ran, "files": {}}, {}
