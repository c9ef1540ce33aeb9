"""Handing a job to a cluster, following its log, and the exit code that says how it ended."""

from __future__ import annotations

import asyncio
import os
import shlex
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from rich.console import Console

from bolt_ray.commands.shared.cluster_token import use_token
from bolt_ray.commands.shared.say import say
from bolt_ray.commands.submit.job import Job
from bolt_ray.core.budget import Budget
from bolt_ray.core.errors import BoltRayError, ConfigError, EnvironmentProblem, RunError

INTERRUPTED = 130
KNOWN_CODES = (1, 2, INTERRUPTED)
"""Exit codes of ``bolt-ray train``; every other comes from a signal or from outside it."""

MAX_LOST_CONNECTIONS, WITHIN_S = 20, 600.0


class JobClient(Protocol):
    """What is used of ``ray.job_submission.JobSubmissionClient``."""

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any]) -> str: ...

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]: ...

    def get_job_info(self, job_id: str) -> Any: ...


def submit(
    job: Job,
    *,
    console: Console,
    follow: bool = True,
    connect: Callable[[Job], JobClient] | None = None,
    poll_s: float = 1.0,
) -> int:
    """Submit ``job`` and follow it to its end.

    Args:
        follow: False returns as soon as the cluster has it.
        connect: makes the client; default: Ray's.
        poll_s: seconds between two looks at a job whose log has ended, or cannot be read.

    Returns:
        the exit code: 0 it succeeded (or was only to be submitted), 130 it was stopped, else the run's own (see
        ``bolt_ray.cli``), 1 where that says nothing.

    Raises:
        EnvironmentProblem: no cluster answers, or it refuses the token or the job.
        RunError: the cluster cannot be asked any more; the job may go on.
    """
    client = (connect or _client)(job)
    try:
        client.submit_job(
            entrypoint=shlex.join(job.entrypoint), submission_id=job.submission_id, runtime_env=job.runtime_env
        )
    except _client_errors() as error:
        raise _refused(job, error) from None
    name = job.submission_id
    say(console, f"Job {name} is submitted. Its log: ray job logs -f {name}   To stop it: ray job stop {name}")
    if not follow:
        return 0
    try:
        info = _follow(client, name, console, poll_s=poll_s)
    except KeyboardInterrupt:
        say(console, f"\nThe job goes on. Its log: ray job logs -f {name}   To stop it: ray job stop {name}")
        return INTERRUPTED
    say(console, _ending(name, info))
    return exit_code(str(info.status), info.driver_exit_code)


def exit_code(status: str, driver_exit_code: int | None) -> int:
    """Of a job that ended. Ray's own command exits 0 when the job was stopped and 1 for every failure."""
    if status == "SUCCEEDED":
        return 0
    if status == "STOPPED":
        return INTERRUPTED
    return driver_exit_code if driver_exit_code in KNOWN_CODES else 1


def _client(job: Job) -> JobClient:
    from ray.job_submission import JobSubmissionClient

    use_token()
    try:
        return JobSubmissionClient(job.address)  # type: ignore[no-any-return]
    except _client_errors() as error:
        raise _refused(job, error) from None


def _client_errors() -> tuple[type[Exception], ...]:
    """What Ray's client raises when it is refused or its connection breaks."""
    from aiohttp import ClientError
    from ray.exceptions import RayError

    return (OSError, RuntimeError, ValueError, RayError, ClientError)


def _refused(job: Job, error: Exception) -> BoltRayError:
    where = job.address or os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or "this machine"
    reason = str(error).strip()
    if type(error).__name__ == "AuthenticationError" or "token" in reason.lower():
        return EnvironmentProblem(
            f"the cluster at {where} wants another token; put its token into ~/.ray/auth_token or into a file that "
            "RAY_AUTH_TOKEN_PATH names ('ray get-auth-token' on the head shows it)"
        )
    if "already exists" in reason:
        return ConfigError(f"--id {job.submission_id}: the cluster has had a job of this name; a name is used once")
    return EnvironmentProblem(f"the job could not be submitted to the cluster at {where}: {reason.splitlines()[-1]}")


def _follow(client: JobClient, name: str, console: Console, *, poll_s: float) -> Any:
    """Print the log until the job has ended; a connection that breaks is made again.

    Returns:
        the job's last state.
    """
    printed = 0
    lost = Budget(MAX_LOST_CONNECTIONS, window_s=WITHIN_S)

    async def tail() -> None:
        nonlocal printed
        read = 0  # every connection begins at the log's first line
        async for text in client.tail_job_logs(name):
            new = text[max(0, printed - read) :]
            read += len(text)
            printed = max(printed, read)
            console.file.write(new)
            console.file.flush()

    while True:
        try:
            asyncio.run(tail())
            info = client.get_job_info(name)
            if info.status.is_terminal():
                return info
        except _client_errors() as error:
            if not lost.spend():
                raise RunError(
                    f"the cluster no longer answers ({error}); the job may go on: ray job status {name}"
                ) from None
        time.sleep(poll_s)


def _ending(name: str, info: Any) -> str:
    status, code = str(info.status), info.driver_exit_code
    if status == "SUCCEEDED":
        return f"Job {name} succeeded"
    if status == "STOPPED":
        return f"Job {name} was stopped. Go on with: resume=DIRECTORY, the run directory that its log names"
    known = {1: "the run failed", 2: "something that you can fix", INTERRUPTED: "interrupted"}
    if code in known:
        return f"Job {name} failed: {known[code]} (exit code {code}); its log says what"
    if code is not None and (code < 0 or code > 128):
        number = -code if code < 0 else code - 128
        return f"Job {name} failed: its process was ended by signal {number}" + (
            ", as when memory runs out" if number == 9 else ""
        )
    lines = [line.strip() for line in (info.message or f"exit code {code}").splitlines() if line.strip()]
    return f"Job {name} failed: " + " … ".join(dict.fromkeys((lines[0], lines[-1])))  # between them lies a traceback
