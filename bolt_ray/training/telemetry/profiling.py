"""Recordings of some steps, operator by operator (``profile:``), in ``profile/`` of the run directory.

The learner's ranks record themselves (`TrainCommand`), at a name that `target_of` gives. What the driver does and what
the generators do lasts from the begin of a step to its end, whatever step they generate for.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import tracemalloc
from collections.abc import Callable

from bolt_ray.engines.profiler import ProfileTarget
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.settings import ProfileSettings
from bolt_ray.training.telemetry.observer import Observer, TrainedStep

FUNCTIONS_SHOWN = 40


def target_of(run: RunDirectory, profile: ProfileSettings, role: str, step: int) -> ProfileTarget | None:
    """Where ``role`` writes what it records of a step, counted from 1; None if it records nothing."""
    if not profile.covers(step, role):
        return None
    return ProfileTarget(directory=str(run.profile), name=_name(step), tool=profile.tool)


def _name(step: int) -> str:
    return f"step-{step:06d}"


class Profiling(Observer):
    """Starts and ends the recordings of generators and driver, and finds those that failed.

    Args:
        first_step: finished steps.
        generators: starts their recordings, or ends them for None.
    """

    def __init__(
        self,
        run: RunDirectory,
        profile: ProfileSettings,
        *,
        first_step: int,
        generators: Callable[[ProfileTarget | None], None],
    ) -> None:
        self._run, self._profile, self._step = run, profile, first_step
        self._generators = generators
        self._driver: DriverRecording | None = None
        self._generating = False

    def phase_began(self, name: str) -> None:
        if name != "wait_rollouts":
            return
        target = target_of(self._run, self._profile, "generator", self._step + 1)
        if target is not None:
            self._generating = True
            self._generators(target)
        target = target_of(self._run, self._profile, "driver", self._step + 1)
        if target is not None:
            self._driver = DriverRecording(target)

    def trained(self, step: TrainedStep) -> None:
        self._end()
        self._step = step.step
        self._look_for_failures()

    def close(self) -> None:
        self._end()
        self._look_for_failures()

    def _look_for_failures(self) -> None:
        """Among the files of the last step, of one that was cut off, and of the one before: some write for a while.

        Raises:
            RuntimeError: a recording failed; the observers' warning says why.
        """
        for step in (self._step - 1, self._step, self._step + 1):
            for failed in self._run.profile.glob(f"{_name(step)}-*-failed.txt"):
                raise RuntimeError(failed.read_text(encoding="utf-8").strip())

    def _end(self) -> None:
        if self._generating:
            self._generating = False
            self._generators(None)
        if self._driver is not None:
            driver, self._driver = self._driver, None
            driver.stop()


class DriverRecording:
    """What the driver's Python functions take: time by ``cProfile``, memory by ``tracemalloc``.

    Written are a table, ``….txt``, and of times ``….pstats`` for the standard library's ``pstats``, or SnakeViz.
    """

    def __init__(self, target: ProfileTarget) -> None:
        self._target = target
        self._profile = cProfile.Profile()
        target.file("driver", "").parent.mkdir(parents=True, exist_ok=True)
        if target.tool == "memory":
            tracemalloc.start()
            self._before = tracemalloc.take_snapshot()
        else:
            self._profile.enable()

    def stop(self) -> None:
        table = io.StringIO()
        if self._target.tool == "memory":
            grown = tracemalloc.take_snapshot().compare_to(self._before, "lineno")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            table.write(f"at most {peak / 2**20:.1f} MiB were held at once; of what is left of them:\n")
            table.writelines(f"{line}\n" for line in grown[:FUNCTIONS_SHOWN])
        else:
            self._profile.disable()
            self._profile.dump_stats(self._target.file("driver", ".pstats"))
            pstats.Stats(self._profile, stream=table).sort_stats("cumulative").print_stats(FUNCTIONS_SHOWN)
        self._target.file("driver", ".txt").write_text(table.getvalue(), encoding="utf-8")
