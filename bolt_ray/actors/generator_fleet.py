"""How many generators there are: which are wanted, which are lost, which go with their machine.

launch ─▶ placing ─▶ starting ─▶ syncing ─▶ live ─▶ lost: replaced, counted within a window of time
              └── fails: tried again, ever later          └▶ draining: replaced elsewhere, not counted
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

from bolt_ray.actors.cluster_watch import ClusterWatch
from bolt_ray.actors.generator_handle import GeneratorHandle
from bolt_ray.actors.ray_runtime import RayRuntime
from bolt_ray.actors.settings import ClusterSettings
from bolt_ray.core.budget import Budget
from bolt_ray.core.errors import RunError, StallError
from bolt_ray.core.metric_names import declare_metrics

LOOK_S = 1.0
"""How often to look whether room for more was found."""
TAKEN_S = 120.0
"""A generator for which room was found and whose process is not there after so long came too late."""
RETRY_S = 2.0
LONGEST_RETRY_S = 60.0
"""A start that failed is tried again after ``RETRY_S``, then twice as long each time, up to this."""
DRAIN_S = 30.0
"""How long a generator on a machine that is taken away may go on where nobody says when that happens."""
HAND_BACK_S = 10.0
"""So long before its machine goes a generator hands back what it has not finished."""

declare_metrics(
    {
        "cluster/generators_live": ("generators", "that generate"),
        "cluster/generators_wanted": ("generators", "that there are to be, where the cluster has room"),
        "cluster/nodes_draining": ("nodes", "of the cluster that are being taken away"),
    }
)

log = logging.getLogger(__name__)


class Room(Protocol):
    """Room for one more generator."""

    def found(self) -> bool:
        """Whether Ray has it."""

    def release(self) -> None:
        """Want it no more, or take it."""


class Resources(Protocol):
    """Makes generators."""

    def actor(self, name: str) -> Any:
        """A generator that has yet to start."""

    def ask_room(self) -> Room:
        """Ask for room for one more."""

    def __str__(self) -> str:
        """What one asks for."""


class GeneratorFleet:
    """See the module's picture. Knows nothing of requests and weights.

    Attributes:
        handles: all generators, those that start and those that go included.
        wanted: how many of them a run has by itself, without those that join where there is room.
        lost: why each generator lost so far was lost.
    """

    def __init__(
        self,
        *,
        cluster: ClusterSettings,
        resources: Resources,
        startup_s: float,
        stall_s: float,
        runtime: RayRuntime,
        watch: ClusterWatch,
    ) -> None:
        self.handles: list[GeneratorHandle] = []
        self.lost: list[str] = []
        self.wanted = cluster.num_generators
        self._most = max(cluster.num_generators, cluster.max_generators or 0)
        self._rooms: list[Room] = []
        self._start_with = cluster.min_generators
        self._start_after_s = cluster.start_after_s
        self._resources = resources
        self._startup_s = startup_s
        self._stall_s = stall_s
        self._runtime = runtime
        self._watch = watch
        self._budget = Budget(cluster.max_generator_replacements, window_s=cluster.failure_window_s, now=runtime.now)
        self._launched = 0
        self._ever_live = False
        self._failed_starts = 0
        self._last_failure = ""
        self._next_launch = self._grow_at = runtime.now()
        self._looked_at = self._live_at = runtime.now()

    @property
    def live(self) -> list[GeneratorHandle]:
        """Those that generate, also those that will go."""
        return [handle for handle in self.handles if handle.generating]

    @property
    def proven(self) -> bool:
        """Whether any generator ever started: after that a failure is the machine's, not the user's."""
        return self._ever_live

    def look(self) -> None:
        """Begin a round: time during which nobody looked counts against no generator."""
        now = self._runtime.now()
        absent, self._looked_at = now - self._looked_at, now
        self._live_at += absent
        for handle in self.handles:
            handle.active_at += absent

    def looked(self) -> None:
        """End a round."""
        self._looked_at = self._runtime.now()

    def enough(self, waited_s: float) -> bool:
        """Whether a run may start with those that are live ``waited_s`` after the first was launched.

        Raises:
            StallError: too few are live, and it is too late for more.
        """
        if waited_s >= self._start_after_s and len(self.live) >= self._start_with:
            return True
        if waited_s > max(self._startup_s, self._start_after_s):
            raise StallError(
                f"{len(self.live)} of {self.wanted} generators are up after {waited_s:.0f} s (deadlines.startup_s), "
                f"and cluster.min_generators is {self._start_with}"
            )
        return False

    def fill(self) -> None:
        """Launch what is missing, unless the last start failed just now."""
        if self._runtime.now() >= self._next_launch:
            for _ in range(self.wanted - len(self._staying)):
                self._launch()

    def grow(self) -> None:
        """Let more join, where there is room for them; where there is none it stays asked for.

        Only room that is found is taken: a generator that waits for some would take what the next process of the run
        to be replaced leaves.
        """
        now = self._runtime.now()
        if now < max(self._grow_at, self._next_launch) or len(self._staying) < self.wanted:
            return
        self._grow_at = now + LOOK_S
        for room in [room for room in self._rooms if room.found()]:
            self._rooms.remove(room)
            room.release()
            self._launch()
        for handle in self._staying[self.wanted :]:
            if handle.state == "placing" and now - handle.active_at > TAKEN_S:
                self.remove(handle)
        while len(self._rooms) + len(self._staying) < self._most:
            self._rooms.append(self._resources.ask_room())
        while self._rooms and len(self._rooms) + len(self._staying) > self._most:
            self._rooms.pop().release()

    def shrink(self) -> None:
        """Give up the room of those that joined, for a process of the run that needs it more."""
        for room in self._rooms:
            room.release()
        self._rooms = []
        # Those that work stay before those that start.
        for handle in sorted(self._staying, key=lambda handle: not handle.generating)[self.wanted :]:
            self.remove(handle)

    def _launch(self) -> None:
        actor = self._resources.actor(f"generator-{self._launched}")
        self._launched += 1
        self.handles.append(GeneratorHandle(actor=actor, call=actor.hello.remote(), active_at=self._runtime.now()))

    @property
    def _staying(self) -> list[GeneratorHandle]:
        return [handle for handle in self.handles if handle.state != "draining"]

    def metrics(self) -> dict[str, float]:
        """``cluster/*``."""
        return {
            "cluster/generators_live": float(len(self.live)),
            "cluster/generators_wanted": float(self._most),
            "cluster/nodes_draining": float(len(self._watch.draining())),
        }

    def went_live(self, handle: GeneratorHandle) -> None:
        """A generator is up, with the current weights."""
        handle.state = "live"
        self._failed_starts = 0
        self._ever_live = True

    def remove(self, handle: GeneratorHandle) -> None:
        """End a generator."""
        self.handles.remove(handle)
        self._runtime.kill(handle.actor)

    def replace(self, handle: GeneratorHandle, reason: str, *, unanswered: int) -> None:
        """End a generator that failed; ``fill`` makes another.

        Raises:
            RunError: too many were lost.
        """
        self.remove(handle)
        started = handle.state == "live"
        if handle.state == "draining":
            log.warning("a generator whose machine is taken away ended early: %s", reason)
            return
        log.warning("a generator is replaced: %s", reason)
        self.lost.append(reason)
        self._last_failure = reason
        if not started:
            self._failed_starts += 1
            pause = min(LONGEST_RETRY_S, RETRY_S * 2 ** (self._failed_starts - 1))
            self._next_launch = self._runtime.now() + pause
        # Beside others that work a start may fail as often as it will.
        if (started or not self.live) and not self._budget.spend():
            raise RunError(
                f"{self._budget.spent} generators had to be replaced, more than the {self._budget.limit} allowed "
                f"within {self._budget.window_s:g} s (cluster.max_generator_replacements); the last, with "
                f"{unanswered} requests unanswered: {reason}"
            )

    def drain(self, *, elsewhere: Callable[[GeneratorHandle], None]) -> None:
        """Let those whose machine is being taken away go; ``elsewhere`` moves what one has not finished."""
        going = self._watch.draining()
        now = self._runtime.now()
        for handle in list(self.handles):
            if handle.process is None or (handle.state != "draining" and handle.process.node_id not in going):
                continue
            if handle.state == "live":
                left = self._watch.seconds_left(handle.process.node_id)
                handle.state = "draining"
                handle.finish_by = now + (DRAIN_S if left is None else left - HAND_BACK_S)
                log.warning(
                    "%s finishes its %d requests: its machine %s is being taken away",
                    handle.process.name,
                    len(handle.in_flight),
                    handle.process.node,
                )
            if handle.state != "draining" or not handle.in_flight or now >= handle.finish_by:
                elsewhere(handle)
                self.remove(handle)

    def close(self) -> None:
        """End all of them; no other comes."""
        self.wanted = self._most = 0
        self.shrink()
        for handle in list(self.handles):
            self.remove(handle)

    def late(self) -> list[tuple[GeneratorHandle, str]]:
        """Those whose start takes too long, or that generate nothing, with what to say of it.

        Raises:
            StallError: no generator was live for that long.
        """
        now = self._runtime.now()
        if self.live:
            self._live_at = now
        elif now - self._live_at > self._startup_s:
            self._none_started(now - self._live_at)
        late = []
        for handle in self.handles:
            waited = now - handle.active_at
            if handle.generating and handle.in_flight and waited > self._stall_s:
                why = f"no token for {waited:.0f} s with {len(handle.in_flight)} requests waiting"
                self._runtime.show(handle.process, why=why)
                late.append((handle, why))
            elif handle.state in ("starting", "syncing") and waited > self._startup_s:
                doing = "starting its engine" if handle.state == "starting" else "loading weights"
                why = f"still {doing} after {waited:.0f} s"
                self._runtime.show(handle.process, why=why)
                late.append((handle, why))
        return late

    def _none_started(self, waited: float) -> NoReturn:
        for handle in self.handles:
            self._runtime.show(handle.process, why=f"no generator for {waited:.0f} s")
        last = f"; the last one failed: {self._last_failure}" if self._last_failure else ""
        if any(handle.state != "placing" for handle in self.handles):
            raise StallError(
                f"a generator did not start within {waited:.0f} s (deadlines.startup_s), and there is no other{last}"
            )
        raise StallError(
            f"a generator did not start within {waited:.0f} s (deadlines.startup_s): Ray has no place for it, which "
            f"asks for {self._resources} on one machine; are they free?{last}"
        )
