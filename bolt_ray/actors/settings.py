"""Settings of the processes: how many and what each asks Ray for (``cluster:``), the scorers (``scoring:``), and the
sharded baseline (``baseline:``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bolt_ray.core.baseline.settings import BaselineSettings
from bolt_ray.core.settings import SettingError, Settings, setting
from bolt_ray.rewards.settings import check_variable_names

OWN_WARM_START = "auto"
"""The warm start that a run makes itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings(Settings):
    """``cluster:`` - how many of each process, and what each asks Ray for."""

    address: str | None = setting(
        None, "a Ray to join; default: the one RAY_ADDRESS names, within a submitted job that cluster, else start one"
    )
    dashboard: bool = setting(False, "with a Ray started here: its dashboard on 127.0.0.1:8265")
    wait_for_nodes: bool = setting(False, "start although resources are missing: an autoscaler adds nodes")
    use_gpu: Literal["auto", "yes", "no"] = setting(
        "auto", "auto: if the cluster, its autoscaler or this machine has one; with wait_for_nodes say yes or no"
    )
    num_learners: int = setting(1, "learner ranks (DeepSpeed)", ge=1)
    num_generators: int = setting(1, "generators (vLLM)", ge=1)
    min_generators: int = setting(
        1, "a run starts with at least so many where the others are not there after start_after_s", ge=1
    )
    max_generators: int | None = setting(
        None, "more generators join, up to so many, where the cluster has or gets room; default: num_generators", ge=1
    )
    start_after_s: float = setting(
        120.0, "how long all generators are waited for; then the run starts with those that are there", unit="s", ge=0
    )
    cpus_per_learner: float = setting(1.0, "CPUs of a rank; its threads", unit="CPUs", gt=0)
    cpus_per_generator: float = setting(1.0, "CPUs of a generator; its threads", unit="CPUs", gt=0)
    cpus_per_shard: float = setting(0.1, "CPUs of a baseline shard", unit="CPUs", gt=0)
    gpus_per_learner: float = setting(1.0, "GPUs of a rank, where GPUs are used", unit="GPUs", ge=0)
    gpus_per_generator: float = setting(
        1.0, "GPUs of a generator and tensor-parallel part, where GPUs are used", unit="GPUs", ge=0
    )
    tensor_parallel_size: int = setting(1, "GPUs one generator spans", ge=1)
    max_learner_restarts: int = setting(
        8,
        "times within failure_window_s that the learner is started again from the last checkpoint, after a rank or its "
        "node was lost, before the run gives up",
        ge=0,
    )
    failure_window_s: float = setting(
        3600.0, "what is lost is counted within so long; older losses are forgotten", unit="s", gt=0
    )
    max_generator_replacements: int = setting(
        8, "generators lost within failure_window_s before the run gives up; one whose node is drained is none", ge=0
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        if self.min_generators > self.num_generators:
            raise SettingError("min_generators", f"{self.min_generators} is above num_generators {self.num_generators}")
        if self.tensor_parallel_size > 1 and self.gpus_per_generator % 1:
            raise SettingError(
                "gpus_per_generator",
                f"{self.gpus_per_generator:g} beside tensor_parallel_size {self.tensor_parallel_size}: each part of "
                "an engine that spans several GPUs has whole ones",
            )
        if self.max_generators is not None and self.max_generators < self.num_generators:
            raise SettingError("max_generators", f"{self.max_generators} is below num_generators {self.num_generators}")
        if self.wait_for_nodes and self.use_gpu == "auto":
            raise SettingError(
                "use_gpu",
                "auto looks at the GPUs there are now, and wait_for_nodes is for nodes that have yet to come: say yes "
                "or no",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringSettings(Settings):
    """``scoring:`` - the scorers, and the processes the rewards run in."""

    num_scorers: int = setting(1, "scorer actors", ge=1)
    min_scorers: int | None = setting(
        None, "a run starts when so many are ready, the others join when there is room; default: all", ge=1
    )
    max_scorers: int | None = setting(
        None, "one scorer more at a time, up to so many, while completions queue for long; default: num_scorers", ge=1
    )
    cpus_per_scorer: float = setting(0.25, "CPUs of a scorer", unit="CPUs", gt=0)
    gpus_per_scorer: float = setting(0.0, "GPUs of a scorer; only for reward models", unit="GPUs", ge=0)
    batch_size: int = setting(16, "completions a scorer takes at a time", unit="completions", ge=1)
    timeout_s: float = setting(10.0, "wall-clock limit of one call of a reward", unit="s", gt=0)
    startup_timeout_s: float = setting(120.0, "limit on a scorer's start, with imports and models", unit="s", gt=0)
    memory_mb: int = setting(4096, "private memory of one reward process", unit="MiB", ge=64)
    env: tuple[str, ...] = setting(
        (), "environment variables, by name, that the processes of rewards without an env of their own get"
    )
    check_references: int = setting(
        1000,
        "rows, spread evenly, whose answers are scored against themselves at the start, where the reward knows how a "
        "right completion is written; a dataset where most are wrong is refused. 0: none",
        unit="rows",
        ge=0,
    )
    max_unscored_fraction: float = setting(
        0.5, "a step of which a larger share gets no verdict is made again after a pause", ge=0, le=1
    )
    unscored_patience_s: float = setting(
        900.0,
        "how long such a step is made again, in growing pauses, of a run that trained steps before; then the run stops",
        unit="s",
        ge=0,
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        check_variable_names("env", self.env)
        if (self.min_scorers or 0) > self.num_scorers:
            raise SettingError("min_scorers", f"{self.min_scorers} is above num_scorers {self.num_scorers}")
        if self.max_scorers is not None and self.max_scorers < self.num_scorers:
            raise SettingError("max_scorers", f"{self.max_scorers} is below num_scorers {self.num_scorers}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedBaselineSettings(BaselineSettings):
    """``baseline:`` - the persistent estimate v̂ of every prompt (SPO, BOLT), and where it is kept."""

    num_shards: int = setting(2, "actors the prompts are spread over", ge=1)
    skip_truncated: bool | None = setting(
        None, "truncated completions are no evidence for the baseline; default: as loss.mask_truncated"
    )
    warm_start: str | None = setting(
        None,
        "a file written by 'bolt-ray precompute-baseline', or auto: made before the first step of warm_start_samples "
        "completions of every prompt (SPO)",
    )
    warm_start_samples: int = setting(8, "warm_start auto: n₀, completions per prompt", unit="completions", ge=1)
    warm_start_allow_pickle: bool = setting(False, "read the old .pkl form with a restricted reader")

    def __post_init__(self) -> None:
        BaselineSettings.__post_init__(self)
