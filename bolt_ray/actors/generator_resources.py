"""What a generator asks of Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bolt_ray.actors.generator_actor import RemoteGenerator


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorResources:
    """What one generator asks Ray for, and how many threads it computes with.

    An actor's resources are always those of one machine, so that the parts of a tensor-parallel engine are together.

    Attributes:
        num_cpus, num_gpus: as Ray counts them; a generator that asks for nothing never makes a cluster grow.
        num_threads: threads of one matrix product on CPU.
    """

    num_cpus: float
    num_gpus: float
    num_threads: int

    def actor(self, name: str) -> Any:
        """A generator that has yet to start."""
        threads = str(self.num_threads)
        return RemoteGenerator.options(
            num_cpus=self.num_cpus,
            num_gpus=self.num_gpus,
            # Its methods block: the long poll beside submit, update and score.
            max_concurrency=8,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        ).remote(name)

    def __str__(self) -> str:
        """As in "1 CPUs and 0 GPUs"."""
        return f"{self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs"
