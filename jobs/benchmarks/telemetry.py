"""What it costs that a run can be seen: record, console, samples, state, trace, sinks, gauges, health.

One run of the quickstart, in which telemetry is switched off and on by turns, every few steps. Whatever the
configuration makes is measured: what it takes in the driver's own thread, by part, and what becomes of the step's time.

python jobs/benchmarks/telemetry.py --steps 80
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from bolt_ray.commands.shared.gpus import resolve_here
from bolt_ray.commands.shared.inputs import prepare_inputs
from bolt_ray.commands.shared.ray_session import ray_session
from bolt_ray.commands.shared.resources import resource_map
from bolt_ray.commands.train.assembly import TrainingAssembly
from bolt_ray.commands.train.observers import start_telemetry
from bolt_ray.commands.train.resume import write_config
from bolt_ray.config.loading import load_config
from bolt_ray.training.interrupts import InterruptFlag
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.run_lock import RunLock
from bolt_ray.training.telemetry.observer import Observer
from bolt_ray.training.telemetry.state import StateWriter

ALL = ["logging.wandb=offline", "logging.tensorboard=true"]
"""What is off by default."""
LIMIT = 0.02


@dataclass(slots=True)
class Measured:
    """What is known of every step, and of every part over the steps with telemetry.

    Attributes:
        block: steps after which telemetry is switched.
        on: whether it is on.
        steps: of each step: with telemetry or without, its seconds, CPU seconds of the driver's process.
        parts: wall and CPU seconds in the driver's thread, by part.
        sinks: CPU seconds of processes that the driver started for it, at each step's end.
        closing: seconds until all of them had ended.
    """

    block: int
    on: bool = True
    steps: list[tuple[bool, float, float]] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    sinks: list[float] = field(default_factory=list)
    closing: float = 0.0


class Switched:
    """Stands in for a part of telemetry: measures its calls, and leaves them out while telemetry is off."""

    def __init__(self, part: Any, measured: Measured, *, always: tuple[str, ...] = ("close", "say")) -> None:
        self._part, self._measured, self._always = part, measured, always

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        return self._timed(name, found) if callable(found) else found

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            if not self._measured.on and name not in self._always:
                return None
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return call(*arguments, **named)
            finally:
                seconds = time.perf_counter() - wall
                if name == "close":  # once for the whole run
                    self._measured.closing += seconds
                else:
                    spent = self._measured.parts[type(self._part).__name__]
                    spent[0] += seconds
                    spent[1] += time.thread_time() - cpu

        return timed


class Clock(Observer):
    """Ends a step's measurement, and switches."""

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        self._last: tuple[float, float] | None = None

    def recorded(self, record: Any) -> None:
        now = time.perf_counter(), time.process_time()
        if self._last is not None:
            self._measured.steps.append((self._measured.on, now[0] - self._last[0], now[1] - self._last[1]))
        self._last = now
        sinks = [
            child for child in psutil.Process().children() if any("sinks.host" in part for part in child.cmdline())
        ]
        self._measured.sinks.append(sum(sum(sink.cpu_times()[:2]) for sink in sinks))
        self._measured.on = len(self._measured.steps) // self._measured.block % 2 == 0


def assembly_with(measured: Measured, **parts: Any) -> TrainingAssembly:
    def start(*given: Any, **named: Any) -> Any:
        telemetry: Any = start_telemetry(*given, **named)
        observers = telemetry._observers
        observers._observers = [*(Switched(one, measured) for one in observers._observers), Clock(measured)]
        for name in ("_metrics", "_display", "_samples"):
            setattr(telemetry, name, Switched(getattr(telemetry, name), measured))
        return telemetry

    class Assembly(TrainingAssembly):
        start_telemetry = staticmethod(start)

    return Assembly(**parts)


def measure(steps: int, *, block: int, settings: list[str]) -> Measured:
    measured = Measured(block=block)
    with tempfile.TemporaryDirectory() as directory:
        run = RunDirectory(Path(directory) / "run")
        run.root.mkdir()
        quiet = ["eval.at_start=false", "eval.at_end=false", "eval.every_steps=0", "checkpoint.every_steps=0"]
        overrides = [f"train.max_steps={steps + 2}", f"run_dir={run.root}", *quiet, *settings]
        config = resolve_here(load_config("configs/quickstart.yaml", overrides))
        write_config(run.config, config)
        with (
            RunLock(run, say=print) as lock,
            StateWriter(run.state, max_steps=config.train.max_steps) as progress,
            ray_session(config.cluster, groups=resource_map(config)),
        ):
            assembly_with(
                measured,
                config=config,
                run=run,
                lock=lock,
                inputs=prepare_inputs(config, say=print),
                checkpoint=None,
                state=None,
                interrupts=InterruptFlag(),
                console=Console(),
                progress=progress,
            ).train()
    return measured


def show(measured: Measured) -> float:
    """Print both tables; returns the share of a step that the driver spends on telemetry."""
    # The first step is that in which everything is warmed up.
    steps = measured.steps[1:]
    count = sum(is_on for is_on, *_ in measured.steps)
    usual = float(np.median([seconds for is_on, seconds, _ in steps if not is_on]))
    print(f"\n| in the driver's thread, of a step of {1000 * usual:.0f} ms | ms | CPU ms | share |\n|---|---|---|---|")
    parts = sorted(measured.parts.items(), key=lambda item: -item[1][0])
    together = [sum(spent[kind] for _, spent in parts) for kind in (0, 1)]
    for name, (wall, cpu) in [*parts, ("together", together)]:
        print(f"| {name} | {1000 * wall / count:.2f} | {1000 * cpu / count:.2f} | {wall / count / usual:.2%} |")
    print("\n| median of a step | with telemetry | without | difference |\n|---|---|---|---|")
    for place, what in ((1, "seconds"), (2, "CPU seconds of the driver")):
        values = {side: np.array([step[place] for step in steps if step[0] == side]) for side in (True, False)}
        on, off = float(np.median(values[True])), float(np.median(values[False]))
        # The standard error of a median of normal values is 1.25 times that of their mean.
        error = float(np.hypot(*(1.25 * side.std() / np.sqrt(len(side)) for side in values.values())))
        print(f"| {what} | {on:.3f} | {off:.3f} | {(on - off) / off:+.1%} ± {error / off:.1%} |")
    # Without their start: imports, and wandb's own services.
    half = len(measured.sinks) // 2
    sinks = (measured.sinks[-1] - measured.sinks[half]) / sum(is_on for is_on, *_ in measured.steps[half:])
    print(
        f"\nProcesses of the sinks: {1000 * sinks:.0f} ms of CPU for a step with telemetry. All ended in "
        f"{measured.closing:.1f} s."
    )
    return together[0] / count / usual


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--block", type=int, default=4, help="steps with telemetry, then as many without")
    parser.add_argument("settings", nargs="*", default=ALL, help="laid over the quickstart's; default: all sinks")
    arguments = parser.parse_args()
    share = show(measure(arguments.steps, block=arguments.block, settings=arguments.settings))
    assert share < LIMIT, f"telemetry takes {share:.1%} of a step in the driver; the limit is {LIMIT:.0%}"


if __name__ == "__main__":
    main()
