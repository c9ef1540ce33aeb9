"""Whether a run is running, stalled or ended, by its ``state.json``. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from bolt_ray.training.telemetry.pace import duration
from bolt_ray.training.telemetry.state import HEARTBEAT_S

LOST_AFTER_S = 12 * HEARTBEAT_S
"""A state this old is no longer written, where its process can be looked for; elsewhere it takes twice as long, for the
clocks of two machines and a file system between them."""
TYPICAL_TIMES = 6.0
SHORTEST_STALL_S = 120.0
FIRST_STALL_S = 1800.0
"""For a phase that has not ended before: models are loaded and compiled in it."""
OPEN_ENDED = ("prepare", "warm start")
"""Stages that take as long as the model, the data and the prompts are large."""


class Standing(IntEnum):
    """How a run stands; the value is the exit code."""

    RUNNING = 0
    STALLED = 3
    ENDED = 4


@dataclass(frozen=True, slots=True)
class Condition:
    """How a run stands, and why in words."""

    standing: Standing
    text: str


@dataclass(frozen=True, slots=True)
class Here:
    """The machine that asks.

    Attributes:
        pid_space: see `bolt_ray.training.telemetry.state.pid_space`.
        started: when a process was started, None if it is gone (`started_ticks`).
    """

    pid_space: str
    started: Callable[[int], int | None]


def condition(state: Mapping[str, Any], *, now: float, here: Here) -> Condition:
    """How the run stands whose state this is.

    Args:
        state: of ``state.json``; {} for a run without one.
        now: seconds since 1970.
        here: where the question is asked.
    """
    if not state:
        return Condition(Standing.ENDED, "no state.json: the run is of an older version, or never began")
    if state["ended"] is not None:
        why = f": {state['error']}" if state["error"] else ""
        return Condition(Standing.ENDED, f"{state['ended']}{why}")
    age = max(0.0, now - state["updated"])
    heard = f"last heard of {duration(age)} ago"
    if state["pid_space"] != here.pid_space:
        if age > 2 * LOST_AFTER_S:
            return Condition(Standing.ENDED, f"cut off: process {state['pid']} on {state['host']} was {heard}")
    elif here.started(state["pid"]) != state["pid_started"]:
        return Condition(Standing.ENDED, f"cut off: process {state['pid']} is gone (killed, or out of memory), {heard}")
    elif age > LOST_AFTER_S:
        return Condition(Standing.STALLED, f"process {state['pid']} is there and does nothing (stopped?), {heard}")
    typical = state["phase_typical_s"]
    limit = FIRST_STALL_S if typical is None else max(TYPICAL_TIMES * typical, SHORTEST_STALL_S)
    lasts = now - state["phase_since"]
    if lasts > limit and state["phase"] not in OPEN_ENDED:
        usually = "" if typical is None else f", usually {duration(typical)}"
        return Condition(Standing.STALLED, f"{state['phase']} has gone on for {duration(lasts)}{usually}")
    return Condition(Standing.RUNNING, "")
