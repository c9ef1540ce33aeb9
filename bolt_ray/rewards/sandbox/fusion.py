"""Programs run by a service that speaks SandboxFusion's ``POST /run_code``.

What contains the programs is the service's affair; see its documentation (https://bytedance.github.io/SandboxFusion).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bolt_ray.core.errors import EnvironmentProblem
from bolt_ray.rewards.endpoint import Endpoint, EndpointError, EndpointSettings
from bolt_ray.rewards.sandbox.host import package_root
from bolt_ray.rewards.sandbox.results import End, RunResult, SandboxLimits

_JOB = "from bolt_ray.rewards.exchange.remote_job import main\nmain()\n"
_SHIPPED = """
    bolt_ray/rewards/exchange/plain.py bolt_ray/rewards/exchange/peer.py bolt_ray/rewards/exchange/program_side.py
    bolt_ray/rewards/exchange/stand_in.py bolt_ray/rewards/exchange/tests_side.py
    bolt_ray/rewards/exchange/remote_job.py
    bolt_ray/rewards/sandbox/host.py bolt_ray/rewards/sandbox/kernel.py bolt_ray/rewards/sandbox/seccomp.py
    bolt_ray/rewards/sandbox/system_calls.py
""".split()
"""What :data:`_JOB` imports: the standard library and these alone."""


class FusionSandbox:
    """Runs programs at a service. Of the limits it is told wall clock and memory; output is cut here.

    Args:
        settings: of the connection.
        limits: of each run.
    """

    def __init__(self, settings: EndpointSettings, *, limits: SandboxLimits) -> None:
        self._endpoint = Endpoint(settings, path="/run_code")
        self.limits = limits

    def run(self, source: str, *, stdin: str = "", files: Mapping[str, str] | None = None) -> RunResult:
        """Run a Python program and wait for its end.

        Raises:
            EnvironmentProblem: the service does not answer, or could not run it.
        """
        encoded = {name: base64.b64encode(text.encode()).decode() for name, text in (files or {}).items()}
        request = {
            "code": source,
            "language": "python",
            "stdin": stdin,
            "compile_timeout": self.limits.wall_s,
            "run_timeout": self.limits.wall_s,
            "memory_limit_MB": self.limits.memory_mb,
            "files": encoded,
            "fetch_files": [],
        }
        try:
            answer = self._endpoint.post(request)
        except EndpointError as problem:
            raise EnvironmentProblem(str(problem)) from problem
        return self._result(answer)

    def run_tests(self, job: str) -> RunResult:
        """Run tests and program in one job; see ``exchange/remote_job.py``."""
        root = Path(package_root())
        return self.run(_JOB, stdin=job, files={name: (root / name).read_text(encoding="utf-8") for name in _SHIPPED})

    def _result(self, answer: Any) -> RunResult:
        try:
            if answer["status"] == "SandboxError":
                raise EnvironmentProblem(f"the service could not run the program: {answer.get('message')}")
            ran = answer["run_result"]
            ends: dict[str, End] = {"Finished": "exited", "TimeLimitExceeded": "wall_time"}
            end = ends[ran["status"]]
            code = int(ran["return_code"]) if end == "exited" else None
        except (KeyError, TypeError, ValueError) as problem:
            raise EnvironmentProblem(f"the service's answer is not that of /run_code: {problem!r}") from problem
        out, err = (str(ran.get(name) or "") for name in ("stdout", "stderr"))
        if len(out) + len(err) > self.limits.output_kb * 1024:
            end, code, out, err = "output", None, out[: self.limits.output_kb * 1024], ""
        return RunResult(
            end=end, exit_code=code, stdout=out, stderr=err, wall_s=float(ran.get("execution_time") or 0.0)
        )
