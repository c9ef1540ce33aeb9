"""What the run's processes print, in the log of the one that started them."""

from __future__ import annotations

import logging
from typing import Any

HANDLER = "bolt_ray"

log = logging.getLogger(__name__)


def output_to_log() -> None:
    """From now on, whatever Ray brings of the processes' output goes to this module's log and not to the terminal.

    For a Ray started or joined with ``log_to_driver=True``, right after it.
    """
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as output

    for name in ("ray_print_logs", HANDLER):
        output.remove_handler(name)
    output.add_handler(HANDLER, log_lines)


def log_lines(batch: dict[str, Any]) -> None:
    """Log the lines of one process.

    Args:
        batch: as Ray's log monitor sends it: ``lines``, ``pid``, ``ip``, and ``actor_name`` or ``task_name`` if known.
    """
    from ray._private.worker import filter_autoscaler_events

    who = batch.get("actor_name") or batch.get("task_name") or "process"
    lines = batch["lines"]
    if batch.get("pid") == "autoscaler":
        who, lines = "autoscaler", filter_autoscaler_events(lines)  # else its whole state, every few seconds
    for line in lines:
        if line.strip():
            log.info("%s (pid %s on %s): %s", who, batch.get("pid"), batch.get("ip"), line)
