"""The scorers of a pool: so many as there are to be, whatever becomes of them and of their nodes.

Each scorer has a seat. One for which no node has room waits there, which tells an autoscaler; one that fails to start
is tried again after a while. The others work on: the pool gives up only when none works and none can be started. A
scorer whose node is being drained gets a successor beforehand, and works until that does.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ray.exceptions import RayActorError, RayError

from bolt_ray.actors.cluster_watch import ClusterWatch
from bolt_ray.actors.ray_results import cause_of, first_line
from bolt_ray.actors.scorer_actor import ScoredBatch
from bolt_ray.actors.scorer_seat import Batch, ScorerActors, Seat
from bolt_ray.actors.settings import ScoringSettings
from bolt_ray.actors.stacks import log_stacks
from bolt_ray.core.budget import Budget
from bolt_ray.core.errors import BoltRayError, ConfigError, EnvironmentProblem, StallError

log = logging.getLogger(__name__)

MAX_FAILED_STARTS = 5
"""Of one seat within the window of failures; then it counts as one that cannot be filled."""

CROWDED_S = 20.0
"""So long completions queue, all scorers at work, before one more is asked for."""

SPARE_S = 300.0
"""So long a scorer has nothing to do before one above ``num_scorers`` is let go."""

LOOK_S = 1.0
"""Longest wait without a look at deadlines and draining nodes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A batch that was scored."""

    batch: Batch
    reply: ScoredBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A batch whose scorer is gone.

    Attributes:
        guilty: whether the batch may be why: the scorer had begun with it, and its node was not about to go.
    """

    batch: Batch
    why: str
    guilty: bool


class ScorerSeats:
    """Seats with their scorers.

    Args:
        settings: how many, and how long a start may take.
        batch_deadline_s: a scorer that has not answered by then is considered stuck.
        room_s: how long all of them may wait for a node.
        failure_window_s: within which failed starts are counted.
        actors, watch, now: Ray and the clock, or stand-ins.
    """

    def __init__(
        self,
        *,
        settings: ScoringSettings,
        batch_deadline_s: float,
        room_s: float,
        failure_window_s: float,
        actors: ScorerActors,
        watch: ClusterWatch | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._batch_deadline_s = batch_deadline_s
        self._room_s = room_s
        self._failure_window_s = failure_window_s
        self._actors = actors
        self._watch = watch or ClusterWatch(now=now)
        self._now = now
        self._launched = 0
        self._load: Literal["crowded", "spare", "even"] = "even"
        self._load_since = 0.0
        self._ready = False
        self.seats: list[Seat] = []
        self.replaced = 0

    def launch(self) -> None:
        """Ask for the scorers and return at once."""
        for _ in range(self._settings.num_scorers):
            self._add()

    def wait_ready(self) -> None:
        """Wait until ``scoring.min_scorers`` are ready, by default all; the others join when there is room.

        Raises:
            ConfigError: a reward cannot be built.
            EnvironmentProblem: the cluster has no room for them.
            StallError: they die while starting.
        """
        enough = self._settings.min_scorers or self._settings.num_scorers
        deadline = self._now() + self._room_s
        while sum(seat.is_live for seat in self.seats) < enough:
            placed = sum(seat.is_live or seat.state == "starting" for seat in self.seats)
            if self._now() >= deadline and placed < enough:
                raise EnvironmentProblem(
                    f"after {self._room_s:g} s (deadlines.startup_s) {self._missing()}; add nodes, or lower "
                    "scoring.num_scorers, scoring.min_scorers or what each asks for"
                )
            self.advance(LOOK_S, queued=False)
        self._ready = True

    def free(self) -> list[Seat]:
        """Those that may be given a batch; one that leaves works only as long as no other does."""
        return [seat for seat in self.seats if seat.state == "idle" and not (seat.leaving and self._others())]

    def give(self, seat: Seat, batch: Batch) -> None:
        """Hand a batch to a free scorer."""
        # Calls are answered in order: without this answer the scorer was gone before it saw the batch.
        seat.greeting = self._actors.call(seat.actor, "info")
        seat.call = self._actors.call(seat.actor, "score", [request.input for request in batch.requests])
        seat.batch, seat.state, seat.until = batch, "busy", self._now() + self._batch_deadline_s

    def advance(self, timeout_s: float, *, queued: bool) -> list[Answered | Lost]:
        """Read what is there, replace lost scorers, grow and shrink; waits for at most ``timeout_s``.

        Args:
            queued: whether completions wait for a scorer.

        Raises:
            ConfigError: a reward cannot be built, before any scorer was ready.
            StallError: no scorer works, and none can be started.
        """
        calls = {seat.call: seat for seat in self.seats if seat.call is not None}
        next_at = min((seat.until for seat in self.seats if seat.state != "idle"), default=float("inf"))
        wait_s = max(0.0, min(timeout_s, next_at - self._now(), LOOK_S))
        ended = [self._read(calls[call]) for call in self._actors.wait(list(calls), timeout_s=wait_s)]
        for seat in list(self.seats):
            if seat.state in ("starting", "busy") and self._now() >= seat.until:
                why = "did not answer before its deadline"
                log_stacks([seat.process] if seat.process else [], why=f"a scorer {why}")
                ended.append(self._lose(seat, why))
            elif seat.state == "vacant" and self._now() >= seat.until:
                self._fill(seat)
        self._leave_draining_nodes()
        self._resize(queued=queued)
        self._check()
        return [each for each in ended if each is not None]

    def forget(self) -> None:
        """Drop what the busy ones work on; they are free again when they have answered."""
        for seat in self.seats:
            if seat.batch is not None:
                seat.batch = Batch(requests=[])

    def close(self, *, grace_s: float) -> None:
        """End the scorers and their reward processes; a busy one is killed at once."""
        left = [self._actors.call(seat.actor, "close") for seat in self.seats if seat.state == "idle"]
        deadline = self._now() + grace_s
        while left and self._now() < deadline:
            ended = self._actors.wait(left, timeout_s=max(0.0, deadline - self._now()))
            left = [call for call in left if call not in ended]
        for seat in self.seats:
            if seat.actor is not None:
                self._actors.end(seat.actor)
        self.seats = []

    def _add(self) -> None:
        seat = Seat(failures=Budget(MAX_FAILED_STARTS, window_s=self._failure_window_s, now=self._now))
        self.seats.append(seat)
        self._fill(seat)

    def _fill(self, seat: Seat) -> None:
        """Ask for a scorer; it may wait for a node with room for as long as it takes."""
        seat.actor = self._actors.launch(f"scorer-{self._launched}")
        self._launched += 1
        seat.call, seat.state = self._actors.call(seat.actor, "info"), "placing"
        seat.launched, seat.until = self._now(), float("inf")

    def _others(self) -> bool:
        return any(seat.is_live and not seat.leaving for seat in self.seats)

    def _read(self, seat: Seat) -> Answered | Lost | None:
        """Read the reply of a scorer: placed, started, scored, or dead."""
        try:
            reply: Any = self._actors.result(seat.call)
        except RayActorError as problem:
            return self._lose(seat, "died" if seat.batch else f"died: {first_line(problem)}")
        except (BoltRayError, ValueError, RayError) as problem:
            if isinstance(problem, ConfigError) and not self._ready:
                raise  # the user's mistake, and nothing that has happened since
            return self._lose(seat, str(cause_of(problem)))
        if seat.state == "placing":
            seat.process = reply
            seat.call, seat.state = self._actors.call(seat.actor, "start"), "starting"
            seat.until = self._now() + 2 * self._settings.startup_timeout_s
            return None
        batch, seat.batch = seat.batch, None
        seat.call, seat.greeting, seat.state = None, None, "idle"
        if batch is None:
            return None
        assert isinstance(reply, ScoredBatch)
        seat.process = reply.process
        return Answered(batch=batch, reply=reply)

    def _lose(self, seat: Seat, why: str) -> Lost | None:
        """End what is left of a scorer, and decide what becomes of its seat."""
        self._actors.end(seat.actor)
        guilty = not seat.leaving and self._has_answered(seat.greeting)
        batch = seat.vacate()
        if seat.leaving:
            self.seats.remove(seat)
        else:
            self.replaced += 1
            if batch is None:
                log.warning("a scorer could not be started: %s", why)
                seat.failed_to_start(why, now=self._now())
            else:
                log.warning("a scorer %s", why)
                self._fill(seat)
        return None if batch is None else Lost(batch=batch, why=why, guilty=guilty)

    def _has_answered(self, call: Any) -> bool:
        """Whether a call of a scorer that is gone was answered before."""
        if call is None or call not in self._actors.wait([call], timeout_s=0.0):
            return False
        try:
            self._actors.result(call)
        except RayError:
            return False
        return True

    def _leave_draining_nodes(self) -> None:
        """Give every scorer on a node that is about to go a successor, and let those go that have one."""
        draining = self._watch.draining()
        for seat in list(self.seats):
            if not seat.leaving and seat.process is not None and seat.process.node_id in draining:
                log.info("%s leaves: its node is being drained", seat.process.name)
                seat.leaving = True
                self._add()
        for seat in list(self.seats):
            if seat.leaving and (not seat.is_live or (seat.state == "idle" and self._others())):
                if seat.actor is not None:
                    self._actors.end(seat.actor)
                self.seats.remove(seat)

    def _resize(self, *, queued: bool) -> None:
        """One scorer more while completions queue for long, one less when there has been none to score for long."""
        staying = [seat for seat in self.seats if not seat.leaving]
        idle = [seat for seat in staying if seat.state == "idle"]
        crowded = queued and all(seat.state == "busy" for seat in staying)
        load: Literal["crowded", "spare", "even"] = "crowded" if crowded else "spare" if idle else "even"
        now = self._now()
        if load != self._load:
            self._load, self._load_since = load, now
        lasted = now - self._load_since
        fewest, most = self._settings.num_scorers, self._settings.max_scorers or self._settings.num_scorers
        if load == "crowded" and lasted >= CROWDED_S and len(staying) < most:
            self._load_since = now
            self._add()
        elif load == "spare" and lasted >= SPARE_S and len(staying) > fewest:
            self._load_since = now
            idle[-1].leaving = True  # and goes at the next look

    def _check(self) -> None:
        """Give up where no scorer works and none can be started."""
        staying = [seat for seat in self.seats if not seat.leaving]
        if not staying or any(seat.is_live for seat in self.seats):
            return
        if all(seat.is_hopeless for seat in staying):
            raise StallError(
                f"no scorer works, and each failed to start more than {MAX_FAILED_STARTS} times within "
                f"{self._failure_window_s:g} s (cluster.failure_window_s); the last: {staying[-1].why}"
            )
        latest = self._now() - self._room_s
        if self._ready and all(seat.state == "placing" and seat.launched <= latest for seat in staying):
            raise StallError(f"for {self._room_s:g} s (deadlines.startup_s) {self._missing()}")

    def _missing(self) -> str:
        """Which scorers are not there, and what they wait for."""
        live = sum(seat.is_live for seat in self.seats)
        placing = sum(seat.state == "placing" for seat in self.seats)
        each = f"{self._settings.cpus_per_scorer:g} CPU and {self._settings.gpus_per_scorer:g} GPU"
        text = f"{live} of {len(self.seats)} scorers are there"
        if placing:
            text += f", {placing} wait for a node with {each} ({self._actors.free()} are free in all)"
        failed = [seat.why for seat in self.seats if seat.why and not seat.is_live]
        return text + (f", {len(failed)} failed to start: {failed[-1]}" if failed else "")
