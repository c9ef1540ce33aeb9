"""Joining a running Ray: with its token, within a deadline, and with this process's signal handlers kept."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError

from bolt_ray.actors.process_output import output_to_log
from bolt_ray.commands.shared.cluster_token import has_unused_token, use_token
from bolt_ray.core.errors import EnvironmentProblem

JOIN_S = 60.0
"""Longest time a cluster's control service may take to answer; one that works takes less than a second."""


def join_ray(address: str | None, *, runtime: Any = ray, timeout_s: float = JOIN_S) -> None:
    """``ray.init`` with a running Ray; what its processes print goes to the log.

    Args:
        address: None or ``auto``: the one that RAY_ADDRESS names, or the only one on this machine.
        runtime: the library, or a stand-in with its functions.

    Raises:
        EnvironmentProblem: no Ray answers there, or it asks for another token.
    """
    where = f"cluster.address {address or 'auto'}"
    try:
        if runtime is ray:
            _wait_for_answer(address, where=where, timeout_s=timeout_s)
        with kept_signal_handlers():
            runtime.init(address=address or "auto", log_to_driver=True, logging_level=logging.ERROR)
    except AuthenticationError:
        raise EnvironmentProblem(
            f"{where}: the cluster asks for another token; put it into ~/.ray/auth_token, or name a file with it in "
            "RAY_AUTH_TOKEN_PATH"
        ) from None
    except (ConnectionError, TimeoutError) as error:
        raise EnvironmentProblem(f"{where}: no Ray answers there ({error})") from None
    output_to_log()


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """``ray.init`` puts its own handler of SIGTERM over this process's, one that exits where the process is."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not signal.getsignal(number):
                    signal.signal(number, handler)


def _wait_for_answer(address: str | None, *, where: str, timeout_s: float) -> None:
    """Ask the cluster's control service something: ``ray.init`` would wait for a sick one without an end.

    This machine's token is used where it is asked for, and only there: with a cluster that knows of no token, a driver
    that has one refuses its own workers.
    """
    from ray._private.services import canonicalize_bootstrap_address

    if address is not None and "://" in address:
        return  # Ray Client has deadlines of its own
    server = canonicalize_bootstrap_address(address or "auto")
    if server is None:
        return
    error = _asked(server, where=where, timeout_s=timeout_s)
    if isinstance(error, AuthenticationError) and has_unused_token(os.environ, Path.home()):
        use_token()
        error = _asked(server, where=where, timeout_s=timeout_s)
    if isinstance(error, AuthenticationError):
        raise error
    if error is not None:
        raise EnvironmentProblem(f"{where}: no Ray answers at {server} ({str(error).splitlines()[0]})")


def _asked(server: str, *, where: str, timeout_s: float) -> Exception | None:
    """What the control service at ``server`` refused to answer with.

    Raises:
        EnvironmentProblem: it said nothing within ``timeout_s``.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    errors: list[Exception] = []

    def ask() -> None:
        try:
            GcsClient(address=server).internal_kv_get(b"session_name", None)
        except (RayError, OSError, RuntimeError) as error:
            errors.append(error)

    asking = threading.Thread(target=ask, name="ray-answers", daemon=True)
    asking.start()
    asking.join(timeout_s)
    if asking.is_alive():
        raise EnvironmentProblem(f"{where}: the Ray at {server} has not answered within {timeout_s:.0f} s")
    return errors[0] if errors else None
