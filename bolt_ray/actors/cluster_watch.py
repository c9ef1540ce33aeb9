"""Which nodes of the cluster are about to go: an autoscaler or a cloud has announced that it takes them."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

LOOK_S = 2.0


class ClusterWatch:
    """Asks Ray now and then; a look costs a call to its head, so answers are kept for ``LOOK_S`` seconds.

    Args:
        ask: the nodes being drained, by hexadecimal id, each with its deadline in unix milliseconds (0: none told).
        now: gives the time in seconds; only differences count.
    """

    def __init__(
        self, ask: Callable[[], Mapping[str, int]] | None = None, *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask or _draining_nodes
        self._now = now
        self._looked_at = -float("inf")
        self._draining: dict[str, int] = {}

    def draining(self) -> frozenset[str]:
        """Hexadecimal ids of the nodes that are being drained, at most ``LOOK_S`` seconds old.

        A head that does not answer leaves the last answer standing.
        """
        if self._now() - self._looked_at >= LOOK_S:
            self._looked_at = self._now()
            try:
                self._draining = dict(self._ask())
            except Exception as error:  # noqa: BLE001 - to look is no part of training
                log.warning("Ray did not tell which nodes are being drained: %s", error)
        return frozenset(self._draining)

    def seconds_left(self, node_id: str) -> float | None:
        """Until a node that is being drained goes; None where nobody told, or it is not."""
        deadline_ms = self._draining.get(node_id, 0)
        return deadline_ms / 1000 - time.time() if deadline_ms else None


def _draining_nodes() -> Mapping[str, int]:
    from ray._private import state

    found: dict[str, int] = state.state.get_draining_nodes()
    return found
