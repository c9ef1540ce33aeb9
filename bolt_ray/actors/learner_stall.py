"""Who it is that a learner's answer waits for: some of its ranks, or the mailbox that they pull commands from."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.stacks import waits_for

MAILBOX_S = 5.0
"""Longest time in which the mailbox says which ranks owe an answer; it takes milliseconds."""


def tell_stall(mailbox: Any, what: str, *, waited_s: float, own: ProcessInfo | None) -> str:
    """As `waits_for`: names the ranks that have not answered, or the mailbox where that says nothing.

    In a collective that one rank does not enter no rank answers; their stacks in the log show which one it is.

    Args:
        mailbox: the actor.
        what: is waited for.
        own: the mailbox's process, if it is known.
    """
    try:
        owing = ray.get(mailbox.owing.remote(), timeout=MAILBOX_S)
    except (RayError, GetTimeoutError):
        silent = () if own is None else (own,)
        return waits_for(f"{what}, and the learner's mailbox does not answer,", waited_s=waited_s, processes=silent)
    return waits_for(what, waited_s=waited_s, processes=owing)
