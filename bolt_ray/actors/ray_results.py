"""Reading the results of Ray calls, so that the project's own errors arrive as they were raised.

Ray wraps what an actor raises in a ``RayTaskError`` whose message is the remote traceback. A ``BoltRayError`` already
says in one sentence what is wrong and what to do; the traceback stays behind it as its ``__cause__``.
"""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayTaskError

from bolt_ray.core.errors import BoltRayError


def get_result(ref: Any, *, timeout_s: float | None = None) -> Any:
    """``ray.get`` of one reference or a list of them.

    Raises:
        BoltRayError: raised by the call itself.
        ValueError: raised by the call itself, an impossible argument.
        RayTaskError: any other error of the call.
        RayActorError: the actor died.
        GetTimeoutError: no result within ``timeout_s``.
    """
    try:
        return ray.get(ref, timeout=timeout_s)
    except RayTaskError as error:
        cause = cause_of(error)
        if isinstance(cause, (BoltRayError, ValueError)):
            raise cause from error
        raise


def cause_of(error: BaseException) -> BaseException:
    """What a remote call raised, without Ray's copy of the remote traceback; ``error`` itself if it is not Ray's."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def first_line(error: BaseException) -> str:
    """Type and first line of what was raised, in the remote process if it came from one, for a log or a reason."""
    cause = cause_of(error)
    lines = (line.strip() for line in str(cause).splitlines())
    return f"{type(cause).__name__}: {next((line for line in lines if line), '')}"
