"""What a generator asks of Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from bolt_ray.actors.generator_actor import RemoteGenerator


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorResources:
    """What one generator asks Ray for, and how many threads it computes with.

    An actor's resources are always those of one machine, so that the parts of a tensor-parallel engine are together.

    Attributes:
        num_cpus, num_gpus: as Ray counts them; a generator that asks for nothing never makes a cluster grow.
        num_threads: threads of one matrix product on CPU.
        spare_cpus: that one which joins leaves free, for processes that come and go.
    """

    num_cpus: float
    num_gpus: float
    num_threads: int
    spare_cpus: float = 0.0

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

    def ask_room(self) -> GeneratorRoom:
        """Ask for room for one more, and for ``spare_cpus`` beside it; what is asked for makes an autoscaler grow."""
        one = {"CPU": self.num_cpus, "GPU": self.num_gpus}
        bundles = [{kind: count for kind, count in one.items() if count}]
        return GeneratorRoom(bundles + ([{"CPU": self.spare_cpus}] if self.spare_cpus else []))

    def __str__(self) -> str:
        """As in "1 CPUs and 0 GPUs"."""
        return f"{self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs"


class GeneratorRoom:
    """A placement group: Ray reserves it as soon as it can, and until then tells the autoscaler of it."""

    def __init__(self, bundles: list[dict[str, float]]) -> None:
        self._group = placement_group(bundles, strategy="PACK")

    def found(self) -> bool:
        """Whether Ray has reserved it."""
        return bool(placement_group_table(self._group)["state"] == "CREATED")

    def release(self) -> None:
        """Free it, for a generator to take, or because no more is wanted."""
        remove_placement_group(self._group)
