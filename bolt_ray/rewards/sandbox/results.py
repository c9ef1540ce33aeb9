"""The limits of a run in the sandbox, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

End = Literal["exited", "killed", "wall_time", "memory", "disk", "output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """Limits of one run.

    Attributes:
        wall_s: wall clock.
        cpu_s: CPU seconds of one process.
        memory_mb: address space of one process, and memory of all of them together (polled).
        max_processes: processes and threads at a time; under ``landlock`` always one process.
        file_mb: size of one file; the writable directory holds twice that.
        output_kb: standard output and standard error together; more ends the program.
        open_files: descriptors of one process.
    """

    wall_s: float
    cpu_s: int
    memory_mb: int
    max_processes: int
    file_mb: int
    output_kb: int
    open_files: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a program ended.

    Attributes:
        end: "exited" by itself, "killed" by a signal (a limit of the kernel's, or its own crash), or ended by
            the sandbox for the wall clock, memory, disk or output.
        exit_code: its exit status, or minus the signal; None if the sandbox ended it.
        stdout, stderr: what it wrote, up to the limit, as text with undecodable bytes replaced.
        wall_s: how long it took, the building of the sandbox included.
    """

    end: End
    exit_code: int | None
    stdout: str
    stderr: str
    wall_s: float

    @property
    def ok(self) -> bool:
        """It ended by itself with status 0."""
        return self.end == "exited" and self.exit_code == 0
