"""Settings that the assembly of a training reads, seen in a whole run with stand-ins."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from support.effects import Effect, Look, Workplace, effect, state_of
from support.scorers import FakeScorerActors
from support.wired_run import LostLearner, called, run_once, run_wired, store_here, write_rows

from bolt_ray.actors.cluster_watch import ClusterWatch
from bolt_ray.actors.scorer_pool import ScorerPool
from bolt_ray.actors.scorer_seat import Batch
from bolt_ray.actors.scorer_seats import ScorerSeats
from bolt_ray.commands.shared.gpus import has_gpus, wants_gpu
from bolt_ray.commands.shared.inputs import prepare_inputs
from bolt_ray.commands.shared.ray_session import ray_session
from bolt_ray.commands.shared.references import verify_references
from bolt_ray.commands.shared.resources import ProcessGroup, resource_map
from bolt_ray.commands.train.observers import observers, sink_starts
from bolt_ray.commands.train.resume import OpenedRun, changed_settings, open_run, with_saved_revision
from bolt_ray.commands.train.train import with_own_warm_start
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import BoltRayError, EnvironmentProblem
from bolt_ray.training.checkpoints import write_checkpoint
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.run_lock import RunLock


def made(part: str, *names: str) -> Look:
    """What a part is made from, or one of it."""

    def look(config: RunConfig, here: Workplace) -> Any:
        found = run_wired(config, here)["made"][part]
        for name in names:
            found = found[name] if isinstance(found, dict) else getattr(found, name)
        return found

    return look


def calls(part: str, name: str) -> Look:
    return lambda config, here: called(run_wired(config, here), part, name)


def left(name: str) -> Look:
    return lambda config, here: run_wired(config, here)[name]


def after_losses(config: RunConfig, here: Workplace) -> Any:
    """What a run says whose learner is lost in every attempt."""
    return run_once(config, here, learner_part=LostLearner)["problem"]


def loop(*names: str) -> Look:
    return made("loop", *names)


def scorer_pool(config: RunConfig, here: Workplace) -> Any:
    given = run_wired(config, here)["made"]["scorers"]
    return state_of(ScorerPool.of(**given, batch_deadline_s=None))


def scorers_at_work(config: RunConfig, here: Workplace) -> Any:
    """How many start where two have room, and how many there are while completions queue; or what is missing."""
    given = run_wired(config, here)["made"]["scorers"]
    actors = FakeScorerActors(node=2)
    seats = ScorerSeats(
        settings=given["settings"],
        batch_deadline_s=1000.0,
        room_s=10.0,
        failure_window_s=60.0,
        actors=actors,
        watch=ClusterWatch(dict, now=actors.now),
        now=actors.now,
    )
    seats.launch()
    try:
        seats.wait_ready()
    except EnvironmentProblem as problem:
        return str(problem)
    started = len(actors.living)
    for seat in seats.free():
        seat.actor.held = True
        seats.give(seat, Batch(requests=[]))
    for _ in range(60):
        seats.advance(1.0, queued=True)
    return [started, len(actors.living)]


def scorer_limits(config: RunConfig, here: Workplace) -> Any:
    return [
        (spec.limit_s, spec.limit_mb, spec.variables) for spec in run_wired(config, here)["made"]["scorers"]["specs"]
    ]


def own_warm_start(config: RunConfig, here: Workplace) -> Any:
    """What is asked for to make the warm start, and where it is read from."""
    asked: list[Any] = []

    def precompute(config: RunConfig, *, output: Path, num_samples: int, console: Console) -> None:
        asked.append(num_samples)

    run = RunDirectory(here.directory / "run")
    made_of = with_own_warm_start(config, run, console=Console(file=io.StringIO()), precompute=precompute)
    return [*asked, made_of.baseline.warm_start == str(run.warm_start)]


def recorded(config: RunConfig, here: Workplace) -> Any:
    """What the learner records of each step."""
    profile = run_wired(config, here)["made"]["learner"]["profile"]
    return [profile(step) for step in range(1, 5)]


def references(config: RunConfig, here: Workplace) -> Any:
    """What is said of the reference answers."""
    write_rows(here.directory)
    said: list[str] = []
    inputs = prepare_inputs(config, say=said.append, show_progress=False)
    store = store_here(inputs.train, config)
    verify_references(store, np.arange(store.num_rows), config, inputs, evaluation=False, say=said.append)
    return said


def processes(config: RunConfig, here: Workplace) -> Any:
    return resource_map(config)


class Runtime:
    """Ray as ``ray_session`` uses it, on a machine of two CPUs."""

    def __init__(self) -> None:
        self.started: dict[str, Any] = {}

    def is_initialized(self) -> bool:
        return bool(self.started)

    def init(self, **settings: Any) -> None:
        self.started = settings

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}, {"Alive": False, "Resources": {"CPU": 64.0}}]

    def shutdown(self) -> None:
        """Nothing runs."""


def ray_started(config: RunConfig, here: Workplace) -> Any:
    runtime = Runtime()
    with ray_session(config.cluster, groups=[], runtime=runtime):
        return runtime.started


def ray_without_room(config: RunConfig, here: Workplace) -> Any:
    groups = [ProcessGroup(role="generators", count=8, cpus=1.0, gpus=0.0)]
    try:
        with ray_session(config.cluster, groups=groups, runtime=Runtime()):
            return "started"
    except BoltRayError as error:
        return str(error)


def sinks(config: RunConfig, here: Workplace) -> Any:
    """What is made to follow a run, and from what."""
    run = RunDirectory(here.directory / "run")
    run.root.mkdir(exist_ok=True)
    starts = sink_starts(config, run, first_step=0)
    kinds = (
        [type(observer).__name__ for observer in observers(config, run, first_step=0, say=print)] if not starts else []
    )
    return [[(start.kind, start.options, start.samples_every) for start in starts], kinds]


def run_directory(config: RunConfig, here: Workplace) -> Any:
    """The directory that a run gets, and the checkpoint that it goes on from."""
    write_checkpoint(RunDirectory(here.directory / "old"), step=3, state={}, write_parts=lambda directory: {}, keep=1)
    try:
        with open_run(config, say=print) as opened:
            return [opened.run.root.name.split("-")[0], opened.checkpoint]
    except BoltRayError as error:
        return str(error)


def storage(config: RunConfig, here: Workplace) -> Any:
    """Where the checkpoints of a run go, too."""
    try:
        with open_run(config, say=print) as opened:
            return opened.storage
    except BoltRayError as error:
        return str(error)


def resumed(config: RunConfig, here: Workplace) -> Any:
    """The model's revision and what is said of a run that goes on with other settings."""
    run = RunDirectory(here.directory)
    saved = config.model_dump(mode="json") | {"rewards": [{"type": "contains"}]}
    saved["model"]["revision"] = "saved"
    opened = OpenedRun(run=run, lock=RunLock(run, say=print), checkpoint=run.root, state=None, saved=saved)
    config = with_saved_revision(config, saved)
    try:
        return [config.model.revision, changed_settings(opened, config)]
    except BoltRayError as error:
        return str(error)


GPUS = {"cluster__use_gpu": "yes"}
GROUPS = {"rollout__group_size": 2, "advantage__baseline": "group"}
"""A group of two has its own rewards; with ``success_reward`` and the others as they are."""

EFFECTS: tuple[Effect, ...] = (
    effect("name", "other", run_directory),
    effect("run_dir", "elsewhere", run_directory),
    effect("resume", "old", run_directory),
    effect("resume_changes", ["rewards"], resumed),
    effect("model.revision", "main", resumed),
    effect(
        "seed", 5, calls("generators", "generate"), made("prompts", "schedule"), made("generators", "engine", "seed")
    ),
    effect("seed", 5, made("learner", "settings", "seed"), made("prompts", "curriculum", "seed")),
    effect("model.use_peft", True, made("learner", "adapters")),
    # rollout
    effect("rollout.rollouts_per_step", 6, calls("generators", "generate"), made("prompts", "schedule")),
    effect("rollout.group_size", 2, calls("prompts", "draw"), made("prompts", "schedule")),
    effect("rollout.max_staleness", 1, calls("generators", "generate"), made("learner", "adapters_kept")),
    effect("rollout.dynamic_sampling", True, loop("_rollout"), **GROUPS),
    effect("rollout.dynamic_sampling_rounds", 1, loop("_rollout"), rollout__dynamic_sampling=True, **GROUPS),
    effect("rollout.max_context_tokens", 48, made("generators", "engine", "max_model_len")),
    # evaluation
    effect("eval.every_steps", 2, left("records"), data__heldout_size=3),
    effect("eval.num_problems", 2, calls("generators", "eval"), data__heldout_size=3),
    effect("eval.num_samples", 2, calls("generators", "eval"), data__heldout_size=3),
    effect("eval.success_reward", 0.5, left("records"), data__heldout_size=3),
    effect("eval.temperature", 0.5, calls("generators", "eval with"), data__heldout_size=3),
    effect("eval.top_p", 0.5, calls("generators", "eval with"), data__heldout_size=3),
    effect("eval.top_k", 3, calls("generators", "eval with"), data__heldout_size=3),
    effect("eval.min_p", 0.5, calls("generators", "eval with"), data__heldout_size=3),
    effect("eval.success_part", "exact", loop("_evaluator", "_success"), data__heldout_size=3),
    effect("eval.max_new_tokens", 8, calls("generators", "eval with"), data__heldout_size=3),
    effect("sampling.max_new_tokens", 8, calls("generators", "eval with"), data__heldout_size=3),
    effect("sampling.stop", ["\n"], calls("generators", "eval with"), data__heldout_size=3),
    effect("eval.seed", 5, calls("generators", "eval"), data__heldout_size=3),
    effect("eval.at_start", False, left("records"), data__heldout_size=3),
    effect("eval.at_end", False, left("records"), data__heldout_size=3),
    # checkpoints and deadlines
    effect("checkpoint.every_steps", 1, left("checkpoints")),
    effect("checkpoint.storage", "file:///dev/null/storage", storage),
    effect("checkpoint.keep", 1, left("checkpoints"), checkpoint__every_steps=1),
    effect("samples.per_step", 1, left("samples")),
    effect("samples.all", True, left("samples"), samples__per_step=1),
    effect("samples.eval", 1, left("samples"), data__heldout_size=3),
    effect("samples.max_chars", 2, left("samples")),
    effect("samples.max_mb", 0.001, left("samples")),
    effect("train.max_steps", 3, calls("learner", "train"), made("prompts", "schedule")),
    effect("deadlines.startup_s", 7.0, made("generators", "startup_s"), calls("learner", "wait_ready")),
    effect("deadlines.startup_s", 7.0, made("scorers", "room_s"), made("shards", "startup_s")),
    effect(
        "deadlines.startup_s", 7.0, loop("_rollout", "_stall_s"), loop("_evaluator", "_stall_s"), data__heldout_size=3
    ),
    effect("deadlines.generation_s", 7.0, made("generators", "stall_s"), loop("_rollout", "_stall_s")),
    effect("deadlines.generation_s", 7.0, loop("_evaluator", "_stall_s"), data__heldout_size=3),
    effect("deadlines.step_s", 7.0, calls("learner", "train"), calls("learner", "save")),
    effect("deadlines.step_s", 7.0, made("learner", "collective_timeout_s")),
    effect("deadlines.sync_s", 7.0, calls("learner", "publish"), calls("generators", "update_weights")),
    effect("deadlines.baseline_s", 7.0, made("shards", "timeout_s")),
    effect("deadlines.prompts_s", 7.0, made("prompts", "schedule")),
    effect("generator.max_logprob_gap", 0.003, left("problem")),
    # recordings
    effect("profile.steps", [2, 3], recorded, calls("generators", "profile"), profile__roles=["learner", "generator"]),
    effect("profile.roles", ["generator"], recorded, calls("generators", "profile"), profile__steps=[2, 2]),
    effect("profile.tool", "memory", recorded, profile__steps=[2, 2]),
    effect("profile.trace_mb", 0.0, left("files")),
    # advantages and evidence
    effect("advantage.baseline", "group", calls("learner", "batch"), rollout__group_size=2),
    effect("advantage.baseline", "group", loop("_rollout", "_keep_groups"), rollout__group_size=2),
    effect("advantage.normalize", "none", calls("learner", "batch")),
    effect("advantage.normalize", "group", loop("_rollout", "_keep_groups"), rollout__group_size=2),
    effect("advantage.clip", 0.1, calls("learner", "batch")),
    effect("advantage.diversity_bonus", 0.5, calls("learner", "batch")),
    effect(
        "advantage.diversity_within",
        "group",
        calls("learner", "batch"),
        advantage__diversity_bonus=0.5,
        rollout__group_size=2,
    ),
    effect("loss.mask_truncated", True, calls("learner", "batch")),
    effect("baseline.skip_truncated", True, calls("shards", "commit")),
    effect("baseline.reward_range", [0.0, 2.0], calls("shards", "commit"), calls("learner", "batch")),
    effect(
        "baseline.reward_range", [0.0, 2.0], made("prompts", "schedule"), made("learner", "settings", "reward_width")
    ),
    effect("baseline.num_shards", 3, made("shards", "num_shards"), processes),
    effect("baseline.warm_start", "scores.json", calls("shards", "warm_start")),
    effect("baseline.warm_start_allow_pickle", True, calls("shards", "warm_start"), baseline__warm_start="scores.json"),
    effect("baseline.warm_start_samples", 3, own_warm_start, baseline__warm_start="auto"),
    effect("curriculum.allocate_rollouts", True, loop("_rollout", "_keep_groups"), rollout__group_size=2),
    effect("curriculum.importance", 0.5, calls("learner", "batch")),
    # scorers
    effect("scoring.num_scorers", 3, scorers_at_work, processes),
    effect("scoring.min_scorers", 1, scorers_at_work, scoring__num_scorers=3),
    effect("scoring.max_scorers", 2, scorers_at_work),
    effect("scoring.env", ("NAME",), scorer_limits),
    effect("scoring.cpus_per_scorer", 0.5, scorer_pool, processes),
    effect("scoring.gpus_per_scorer", 0.5, scorer_pool, processes, **GPUS),
    effect("cluster.failure_window_s", 7.0, made("scorers", "failure_window_s")),
    effect("scoring.batch_size", 4, scorer_pool),
    effect("scoring.timeout_s", 3.0, scorer_limits),
    effect("scoring.startup_timeout_s", 7.0, scorer_pool),
    effect("scoring.memory_mb", 512, scorer_limits),
    effect("scoring.check_references", 1, references),
    effect("scoring.max_unscored_fraction", 0.1, left("problem"), scoring__unscored_patience_s=0.0),
    effect("scoring.unscored_patience_s", 60.0, loop("_steps", "_unscored", "_patience_s")),
    # where metrics go
    effect("logging.wandb", True, sinks),
    effect("logging.wandb", "offline", sinks, logging__wandb=True),
    effect("logging.wandb_project", "arithmetic", sinks, logging__wandb=True),
    effect("logging.wandb_project", "arithmetic", sinks, logging__trackio=True),
    effect("logging.wandb_entity", "team", sinks, logging__wandb=True),
    effect("logging.wandb_group", "seeds", sinks, logging__wandb=True),
    effect("logging.wandb_tags", ["first"], sinks, logging__wandb=True),
    effect("logging.tensorboard", True, sinks),
    effect("logging.trackio", True, sinks),
    effect("logging.samples_every_steps", 1, sinks, logging__tensorboard=True),
    effect("logging.ray_metrics", False, sinks),
    # the cluster
    effect("cluster.address", "ray://head:10001", ray_started),
    effect("cluster.dashboard", True, ray_started),
    effect("cluster.wait_for_nodes", True, ray_without_room, cluster__use_gpu="no"),
    effect(
        "cluster.use_gpu",
        "no" if has_gpus(None) else "yes",
        lambda config, here: wants_gpu(config),
        made("learner", "use_gpu"),
        processes,
    ),
    effect("cluster.num_learners", 2, made("learner", "world_size"), processes),
    effect("cluster.num_generators", 2, made("generators", "cluster", "num_generators"), processes),
    effect("cluster.cpus_per_learner", 2.0, made("learner", "resources_per_worker"), processes),
    effect("cluster.cpus_per_learner", 2.0, made("learner", "num_threads")),
    effect("cluster.cpus_per_generator", 2.0, made("generators", "resources", "num_cpus"), processes),
    effect("cluster.cpus_per_generator", 2.0, made("generators", "resources", "num_threads")),
    effect("cluster.cpus_per_shard", 0.5, made("shards", "cpus_per_shard"), processes),
    effect("cluster.gpus_per_learner", 0.5, made("learner", "resources_per_worker"), processes, **GPUS),
    effect("cluster.gpus_per_generator", 0.5, made("generators", "resources", "num_gpus"), processes, **GPUS),
    effect("cluster.tensor_parallel_size", 2, made("generators", "resources", "num_gpus"), processes, **GPUS),
    effect("cluster.max_learner_restarts", 1, after_losses),
    effect("cluster.failure_window_s", 60.0, after_losses),
    effect("cluster.min_generators", 2, made("generators", "cluster", "min_generators"), cluster__num_generators=2),
    effect("cluster.max_generators", 2, made("generators", "cluster", "max_generators")),
    effect("cluster.start_after_s", 7.0, made("generators", "cluster", "start_after_s")),
    effect("cluster.failure_window_s", 7.0, made("generators", "cluster", "failure_window_s")),
    effect("cluster.max_generator_replacements", 1, made("generators", "cluster", "max_generator_replacements")),
)
