"""One training of ``chaos.py``: it kills processes of its own, and notes all that is needed to judge it afterwards.

    python jobs/benchmarks/chaos_run.py <directory>

``<directory>/plan.json`` says what is killed when. ``kills.jsonl`` gets a line before each kill, ``recovered.jsonl``
one when the step after it is done, ``outcomes.jsonl`` one for every trained step; of a step trained again the last
counts.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from bolt_ray.commands.train.assembly import TrainingAssembly
from bolt_ray.commands.train.train import train
from bolt_ray.config.loading import load_config
from bolt_ray.training.telemetry.observer import Observer, Observers, TrainedStep
from bolt_ray.training.telemetry.state import StateWriter
from bolt_ray.training.telemetry.timer import Span

PHASES = {
    "generating": "wait_rollouts",
    "scoring": "wait_rollouts",
    "training": "train",
    "syncing": "sync",
    "committing": "baseline",
    "checkpointing": "checkpoint",
    "evaluating": "evaluate",
}
"""What is killed in, and what the driver calls it."""

TITLES = {
    "generator": "ray::Generator",
    "scorer": "ray::Scorer",
    "shard": "ray::BaselineShard",
    "rank": "ray::RayTrainWorker",
    "mailbox": "ray::LearnerMailbox",
}
"""What Ray calls the processes."""

LONGEST_DELAY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill.

    Attributes:
        target: of ``TITLES``, or ``driver``, ``node``, ``everything``.
        phase: of ``PHASES``.
        part: share of the phase's usual length that goes by first; 0: the moment it begins.
    """

    target: str
    phase: str
    part: float


def plan_file(directory: Path) -> Path:
    return directory / "plan.json"


def write_plan(directory: Path, kills: Sequence[Kill], *, first_step: int = 0, root: int | None = None) -> None:
    """``first_step``: steps finished before the first kill; ``root``: the process below which all others are, where
    that is not the training's own."""
    plan = {"root": root, "first_step": first_step, "kills": [asdict(kill) for kill in kills]}
    plan_file(directory).write_text(json.dumps(plan), encoding="utf-8")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a file of notes; a torn last one is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        with suppress(ValueError):
            records.append(json.loads(line))
    return records


def note(path: Path, record: Mapping[str, Any]) -> None:
    """Append a line; the kernel has it when this returns, whatever process is killed next."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def processes_below(root: int) -> list[tuple[int, str]]:
    """(pid, command line) of all processes that descend from ``root``."""
    found = []
    for process in psutil.Process(root).children(recursive=True):
        with suppress(psutil.Error):
            found.append((process.pid, " ".join(process.cmdline())))
    return found


def kill_now(pids: Sequence[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class Killer(Observer):
    """Kills as planned, one after another: each waits until a step was trained after the one before."""

    def __init__(self, directory: Path) -> None:
        plan = json.loads(plan_file(directory).read_text(encoding="utf-8"))
        self._directory = directory
        self._root = int(plan["root"] or os.getpid())
        self._first_step = int(plan["first_step"])
        self._kills = [Kill(**kill) for kill in plan["kills"]]
        done = read_lines(directory / "kills.jsonl")
        recovered = read_lines(directory / "recovered.jsonl")
        self._next = len(done)
        self._open = done[len(recovered)] if len(done) > len(recovered) else None
        self._step = 0
        self._phase = "start"
        self._armed = False
        self._took: defaultdict[str, list[float]] = defaultdict(list)
        self._random = random.Random(self._next)

    def phase_began(self, name: str) -> None:
        self._phase = name
        if self._armed or self._open is not None or self._next == len(self._kills) or self._step < self._first_step:
            return
        kill = self._kills[self._next]
        if PHASES[kill.phase] != name:
            return
        victims = self._victims(kill)
        if not victims:
            return  # its replacement is on its way
        self._armed = True
        usual = statistics.median(self._took[name]) if self._took[name] else 0.0
        delay = min(LONGEST_DELAY_S, kill.part * usual)
        if delay == 0.0 and kill.phase != "scoring":
            self._kill(kill, victims)
        else:
            threading.Thread(target=self._kill_later, args=(kill, victims, delay), daemon=True).start()

    def phase_ended(self, span: Span) -> None:
        self._phase = "between"
        self._took[span.name].append(span.seconds)

    def trained(self, step: TrainedStep) -> None:
        self._step = step.step
        note(self._directory / "outcomes.jsonl", outcome_of(step))
        killed = self._open
        if killed is not None and step.step > killed["step"]:
            self._open = None
            note(
                self._directory / "recovered.jsonl",
                {"number": killed["number"], "step": step.step, "seconds": time.time() - killed["at"]},
            )

    def _victims(self, kill: Kill) -> list[int]:
        """The processes of one kill; none where there is none of that kind now."""
        me = os.getpid()
        if kill.target == "driver":
            return [me]
        below = processes_below(self._root)
        if kill.target == "everything":
            return [*(pid for pid, _ in below if pid != me), me]
        if kill.target == "node":
            raylets = [pid for pid, command in below if "/raylet/raylet" in command and "--head" not in command]
            if not raylets:
                return []
            chosen = self._random.choice(raylets)
            return [chosen, *(pid for pid, _ in processes_below(chosen))]
        title = TITLES[kill.target]
        titled = [(pid, command) for pid, command in below if command.startswith(title)]
        found = [pid for pid, command in titled if not command.startswith(f"{title}.start")]
        return [self._random.choice(found)] if found else []

    def _kill_later(self, kill: Kill, victims: list[int], delay: float) -> None:
        time.sleep(delay)
        if kill.phase == "scoring" and kill.target != "scorer":
            self._wait_for_a_title(f"{TITLES['scorer']}.score")
        elif kill.phase == "scoring":
            victims = self._wait_for_a_title(f"{TITLES['scorer']}.score") or victims
        self._kill(kill, victims)

    def _wait_for_a_title(self, title: str) -> list[int]:
        """A process of that title, once there is one; none when the phase is over first."""
        while self._phase == PHASES["scoring"]:
            found = [pid for pid, command in processes_below(self._root) if command.startswith(title)]
            if found:
                return found[:1]
        return []

    def _kill(self, kill: Kill, victims: list[int]) -> None:
        self._open = {
            "number": self._next,
            **asdict(kill),
            "during": self._phase,
            "step": self._step,
            "pids": victims,
            "orphans": [pid for pid, _ in processes_below(self._root)] if os.getpid() in victims else [],
            "at": time.time(),
        }
        self._next += 1
        self._armed = False
        note(self._directory / "kills.jsonl", self._open)
        kill_now(victims)


def outcome_of(step: TrainedStep) -> dict[str, Any]:
    """What is needed to take the step's outcomes again, and to count its completions."""
    rollouts = step.rollouts
    return {
        "step": step.step,
        "version": step.report.policy_version,
        "skipped": step.report.skipped,
        "drift": step.record.get("policy/drift"),
        "trained": [item.request_id for item in rollouts.trainable],
        "left_out": [item.request_id for item in rollouts.dropped],
        "scored": [
            [item.prompt.key, item.oldest_version, item.tracker_reward, item.truncated, item.v_hat]
            for item in (*rollouts.trainable, *rollouts.baseline_only)
        ],
    }


class Beside(Observers):
    """The run's own ``state.json`` and the killer, told of the same."""

    def __init__(self, progress: StateWriter, killer: Killer) -> None:
        super().__init__([progress, killer], warn=print)
        self.evaluated = progress.evaluated


def main() -> int:
    directory = Path(sys.argv[1])
    killer = Killer(directory)
    begin = TrainingAssembly.start_telemetry

    def start_telemetry(*arguments: Any, progress: StateWriter, **named: Any) -> Any:
        return begin(*arguments, progress=Beside(progress, killer), **named)  # type: ignore[arg-type]

    TrainingAssembly.start_telemetry = staticmethod(start_telemetry)
    return int(train(load_config(directory / "config.yaml", ["resume=if_any"])).interrupted)


if __name__ == "__main__":
    sys.exit(main())
