"""Ranks joined by gloo, as processes that the learner tests share: to import and join takes longer than most tests."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class RankPool:
    """``num_ranks`` processes in one process group; started by the first call, anew after a failure."""

    def __init__(self, *, num_ranks: int, directory: Path) -> None:
        """
        Args:
            directory: an existing directory of the pool's own, through which the ranks find each other.
        """
        self._num_ranks = num_ranks
        self._directory = directory
        self._starts = 0
        self._processes: list[Any] = []
        self._connections: list[Connection] = []

    def run(self, function: Callable[..., None], *args: Any) -> None:
        """``function(rank, *args)`` on every rank; ``function`` must be importable.

        Raises:
            AssertionError: it failed on a rank (whose traceback is the message), or a rank died.
        """
        if not self._processes:
            self._start()
        for connection in self._connections:
            connection.send((function, args))
        waiting = list(self._connections)
        while waiting:
            for connection in wait(waiting):
                assert isinstance(connection, Connection)
                waiting.remove(connection)
                try:
                    failure = connection.recv()
                except EOFError:
                    failure = "it died"
                if failure is not None:
                    rank = self._connections.index(connection)
                    # The others may wait for it in a collective.
                    self.close()
                    raise AssertionError(f"rank {rank} of {self._num_ranks}: {failure}")

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for connection in self._connections:
            connection.close()
        self._processes, self._connections = [], []

    def _start(self) -> None:
        self._starts += 1
        rendezvous = str(self._directory / f"join{self._starts}")
        context = multiprocessing.get_context("spawn")
        for rank in range(self._num_ranks):
            here, there = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self._num_ranks, rendezvous, there), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._connections.append(here)


def _serve(rank: int, num_ranks: int, rendezvous: str, connection: Connection) -> None:
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=num_ranks)
    while True:
        try:
            function, args = connection.recv()
        except EOFError:
            return
        try:
            function(rank, *args)
            connection.send(None)
        except BaseException:
            connection.send(traceback.format_exc())
