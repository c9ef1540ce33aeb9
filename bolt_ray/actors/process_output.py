"""What the run's processes print, in the log of the one that started them."""

from __future__ import annotations

import logging
from typing import Any

HANDLER = "bolt_ray"
EVENT = ":event_summary:"
"""What Ray's autoscaler puts before the lines that say what it did."""

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
    who = batch.get("actor_name") or batch.get("task_name") or "process"
    lines = batch["lines"]
    if batch.get("pid") == "autoscaler":
        # Else its whole state, every few seconds. The events of its second version are JSON.
        who = "autoscaler"
        lines = [line.rpartition(EVENT)[2] for line in lines if EVENT in line or line.startswith("{")]
    for line in lines:
        if line.strip():
            log.info("%s (pid %s on %s): %s", who, batch.get("pid"), batch.get("ip"), line)
