"""Parts of a run that are made of its configuration alone, or of a few others: what each gets of it stands here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bolt_ray.actors.baseline_shards import BaselineShards
from bolt_ray.actors.generator_pool import GeneratorPool
from bolt_ray.actors.processes import ProcessInfo, ProcessMonitor
from bolt_ray.actors.scorer_pool import ScorerPool
from bolt_ray.commands.shared.inference import math_equality
from bolt_ray.commands.shared.inputs import RunInputs
from bolt_ray.commands.shared.prompts import store_row_keys
from bolt_ray.config.resolve import eval_sampling
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.records import DrawnPrompt
from bolt_ray.data.ingest.read_plan import source_weights
from bolt_ray.data.store import PromptStore
from bolt_ray.rewards.unscored import UnscoredWatch
from bolt_ray.training.batch import BatchBuilder
from bolt_ray.training.completions import CompletionService
from bolt_ray.training.curriculum_stream import PromptSchedule
from bolt_ray.training.evaluator import Evaluator
from bolt_ray.training.learner_group import LearnerGroup
from bolt_ray.training.recovery import StartingPoint
from bolt_ray.training.telemetry.notices import Notices
from bolt_ray.training.telemetry.telemetry import Telemetry


def warm_start(config: RunConfig, shards: BaselineShards, store: PromptStore, *, say: Callable[[str], None]) -> None:
    assert config.baseline.warm_start is not None
    report = shards.warm_start(
        Path(config.baseline.warm_start),
        row_key=store_row_keys(store),
        allow_pickle=config.baseline.warm_start_allow_pickle,
    )
    say(f"Warm start: {report.hits:,} of {report.rows:,} prompts ({100 * report.hit_rate:.1f}%) from {report.path}")
    if report.warning is not None:
        say(f"Warning: {report.warning}")


def processes(
    learner: LearnerGroup, generators: GeneratorPool, scorers: ScorerPool, shards: BaselineShards
) -> Callable[[], list[ProcessInfo]]:
    """Tells of the run's processes as they last answered, this one first; any thread may ask."""
    driver = ProcessMonitor("driver", "driver")
    pools = (learner, generators, scorers, shards)
    return lambda: [driver.info(), *(process for pool in pools for process in pool.processes)]


def counted_from(start: StartingPoint, telemetry: Telemetry, *, started: float) -> float:
    """Since when time is added to that of the records kept: an attempt that was lost took time too.

    Args:
        started: when this attempt was.
    """
    if not start.restarts:
        return started
    if "time/at" not in telemetry.last:
        return start.since
    return time.monotonic() - (time.time() - float(telemetry.last["time/at"]))


def keeps_groups(config: RunConfig) -> bool:
    """Whether the completions of a draw are trained together."""
    compared = config.advantage.baseline in ("group", "rloo", "loo_posterior") or config.advantage.normalize == "group"
    return compared or config.curriculum.allocate_rollouts


def unscored_watch(config: RunConfig, start: StartingPoint) -> UnscoredWatch:
    return UnscoredWatch(
        max_unscored_fraction=config.scoring.max_unscored_fraction,
        patience_s=config.scoring.unscored_patience_s,
        worked_before=start.step > 0,
    )


def evaluator(
    config: RunConfig, service: CompletionService, problems: list[DrawnPrompt], stack: ExitStack
) -> Evaluator:
    same_answers = math_equality(config)
    stack.callback(same_answers.close)
    return Evaluator(
        service=service,
        problems=problems,
        sampling=eval_sampling(config),
        settings=config.eval,
        stall_s=config.deadlines.generation_s + config.deadlines.startup_s,
        same_answers=same_answers,
    )


def batch_builder(config: RunConfig) -> BatchBuilder:
    return BatchBuilder(
        advantage=config.advantage,
        reward_range=config.baseline.scaled_from,
        mask_truncated=config.loss.mask_truncated,
        skip_truncated_evidence=bool(config.baseline.skip_truncated),
        importance=config.curriculum.importance,
    )


def notices(config: RunConfig, builder: BatchBuilder, telemetry: Telemetry) -> Notices:
    baseline = config.baseline
    return Notices(
        say=telemetry.say,
        builder=builder,
        forgets_after=1.0 / (1.0 - baseline.rho_min) if baseline.forgetting == "event" else math.inf,
        kl_per_sequence=config.kl.unit == "sequence",
    )


def prompt_schedule(config: RunConfig, inputs: RunInputs, *, max_prompt_tokens: int) -> PromptSchedule:
    return PromptSchedule(
        rollout=config.rollout,
        max_steps=config.train.max_steps,
        reward_range=config.baseline.scaled_from,
        seed=config.seed,
        source_weights=source_weights(inputs.train),
        max_prompt_tokens=max_prompt_tokens,
        on_long_prompt=config.data.on_long_prompt,
        stall_timeout_s=config.deadlines.prompts_s,
    )
