"""The composition root of ``bolt-ray train``: everything is put together here, and nowhere else.

The configuration stops here; each part gets its own settings and the parts it works with.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bolt_ray.actors.baseline_shards import BaselineShards
from bolt_ray.actors.generator_pool import GeneratorPool
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.scorer_pool import ScorerPool
from bolt_ray.actors.settings import OWN_WARM_START
from bolt_ray.actors.shared_directory import check_shared
from bolt_ray.commands.shared.inputs import RunInputs
from bolt_ray.commands.shared.prompts import heldout_problems, open_store, prompt_doubts
from bolt_ray.commands.shared.references import verify_references
from bolt_ray.commands.shared.say import say
from bolt_ray.commands.train import parts
from bolt_ray.commands.train.fleet import Fleet
from bolt_ray.commands.train.observers import start_telemetry
from bolt_ray.commands.train.resume import write_config
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.curriculum import Curriculum
from bolt_ray.core.digests import FileDigest
from bolt_ray.core.errors import LearnerLostError, StallError
from bolt_ray.core.records import DrawnPrompt
from bolt_ray.engines.tokenizer import PromptTokenizer
from bolt_ray.training.checkpoint_uploads import CheckpointUploads
from bolt_ray.training.checkpoints import write_checkpoint
from bolt_ray.training.completion_metrics import RunTotals
from bolt_ray.training.completions import CompletionService
from bolt_ray.training.curriculum_stream import CurriculumPrompts
from bolt_ray.training.interrupts import InterruptFlag
from bolt_ray.training.learner_group import LearnerGroup
from bolt_ray.training.loop import LoopOutcome, TrainingLoop
from bolt_ray.training.recovery import StartingPoint
from bolt_ray.training.rollout import RolloutLoop
from bolt_ray.training.run_directory import RunDirectory, set_aside_later
from bolt_ray.training.run_lock import RunLock
from bolt_ray.training.telemetry.profiling import target_of
from bolt_ray.training.telemetry.state import StateWriter
from bolt_ray.training.telemetry.telemetry import Telemetry
from bolt_ray.training.weight_sync import NUM_PROBES, ParityProbe, WeightSync

log = logging.getLogger(__name__)


class TrainingAssembly:
    """One attempt: starts what a lost learner takes along, connects it with the fleet, and ends it in reverse order.

    Attributes:
        began: whether it came to the training loop.
    """

    # What the parts are made by.
    learner_group = LearnerGroup
    start_shards = BaselineShards.start
    open_store = staticmethod(open_store)
    verify_references = staticmethod(verify_references)
    prompt_stream = CurriculumPrompts
    start_telemetry = staticmethod(start_telemetry)

    def __init__(
        self,
        start: StartingPoint,
        *,
        config: RunConfig,
        run: RunDirectory,
        lock: RunLock,
        inputs: RunInputs,
        fleet: Fleet,
        interrupts: InterruptFlag,
        console: Console,
        progress: StateWriter,
        uploads: CheckpointUploads | None = None,
    ) -> None:
        self._config = config
        self._run = run
        self._lock = lock
        self._uploads = uploads
        self._inputs = inputs
        self._fleet = fleet
        self._start = start
        self._interrupts = interrupts
        self._console = console
        self._progress = progress
        self.began = False
        self._started = time.monotonic()
        self._processes: Callable[[], list[ProcessInfo]] = list

    def train(self) -> LoopOutcome:
        # Telemetry ends last: a service that hangs must not keep what others wait for.
        with ExitStack() as last, ExitStack() as stack:
            # The slow starters first: they come up while the prompts are read.
            learner = self._learner(stack)
            generators = self._fleet.generators(version=self._start.version)
            shards = self._shards(stack)
            scorers = self._fleet.scorers()
            prompts, problems = self._prompts(stack, shards)
            generators.wait_ready(idle=partial(_look_after, learner, self._interrupts), say=partial(say, self._console))
            self._wait_for(learner)
            adapted = generators.processes if self._config.model.use_peft else ()  # their weights come as files
            self._check_shared([*learner.processes, *adapted])
            say(self._console, f"All processes are up after {time.monotonic() - self._started:.0f} s")
            self._processes = self._progress.processes = parts.processes(learner, generators, scorers, shards)
            stack.callback(setattr, self._progress, "processes", list)  # from then on they are ended
            telemetry = self._telemetry(last, generators)
            loop = self._loop(stack, telemetry, learner, generators, shards, scorers, prompts, problems)
            self._set_aside_later()
            self.began = True
            self._interrupts.at_once = False
            self._progress.stage("step")
            stack.callback(self._progress.stage, "stop")
            return loop.run()

    def _wait_for(self, learner: LearnerGroup) -> None:
        """Until its ranks are there. Once they had room, its lack is a loss like the first: it may come back."""
        try:
            learner.wait_ready(timeout_s=self._config.deadlines.startup_s, idle=self._interrupts.check)
        except StallError as error:
            if not self._start.restarts:
                raise
            raise LearnerLostError(str(error)) from error

    def _check_shared(self, processes: Sequence[ProcessInfo]) -> None:
        """Whether the nodes of processes that read and write in the run directory have it."""
        check_shared(self._run.root, processes, timeout_s=self._config.deadlines.startup_s)

    def _set_aside_later(self) -> None:
        """Only now, when steps after the checkpoint are about to be trained again."""
        if (checkpoint := self._start.checkpoint) is not None:
            write_config(self._run.config, self._config)
            for later in set_aside_later(self._run, checkpoint):
                say(self._console, f"Going on from {checkpoint.name}: {later.name} keeps a later checkpoint")
            if self._uploads is not None:
                self._uploads.set_aside_later(checkpoint)

    def _learner(self, stack: ExitStack) -> LearnerGroup:
        cluster = self._config.cluster
        group = self.learner_group(
            settings=self._config.learner(model_path=self._inputs.model),
            world_size=cluster.num_learners,
            resources_per_worker={
                "CPU": cluster.cpus_per_learner,
                **({"GPU": cluster.gpus_per_learner} if self._config.uses_gpu else {}),
            },
            use_gpu=self._config.uses_gpu,
            storage_path=self._run.ray_train,
            # A name of its own per attempt: a snapshot torn by a crash must not meet the next attempt.
            run_name=f"{self._run.root.name}-{uuid.uuid4().hex[:8]}",
            collective_timeout_s=self._config.deadlines.step_s,
            restore_from=None if self._start.checkpoint is None else self._start.checkpoint / "learner",
            num_threads=max(1, int(cluster.cpus_per_learner)),
            adapters=self._run.root / "adapters" if self._config.model.use_peft else None,
            adapters_kept=self._config.rollout.max_staleness + 2,
            profile=partial(target_of, self._run, self._config.profile, "learner"),
        )
        stack.callback(group.close)
        return group

    def _shards(self, stack: ExitStack) -> BaselineShards:
        shards = self.start_shards(
            num_shards=self._config.baseline.num_shards,
            settings=self._config.baseline,
            wal_dir=self._run.baseline,
            timeout_s=self._config.deadlines.baseline_s,
            startup_s=self._config.deadlines.startup_s,
            cpus_per_shard=self._config.cluster.cpus_per_shard,
        )
        stack.callback(shards.close)
        self._check_shared(shards.processes)
        return shards

    def _prompts(self, stack: ExitStack, shards: BaselineShards) -> tuple[CurriculumPrompts, list[DrawnPrompt]]:
        """The stream with the baseline's rows registered, and the held-out problems."""
        config, inputs = self._config, self._inputs
        store = self.open_store(inputs.train, config)
        tokenize = PromptTokenizer.of(inputs.model, config.model)
        for doubt in prompt_doubts(store, tokenize):
            say(self._console, f"Warning: {doubt}")
        max_tokens = min(config.data.max_prompt_tokens, inputs.context_tokens - config.sampling.max_new_tokens)
        rows, heldout_rows = store.split_heldout(fraction=config.data.heldout_fraction, size=config.data.heldout_size)
        heldout = store
        if inputs.heldout:
            heldout = self.open_store(inputs.heldout, config)
            heldout_rows = np.arange(heldout.num_rows, dtype=np.int64)
        problem_rows = heldout_rows[: config.eval.num_problems]
        tell = partial(say, self._console)
        if self._start.checkpoint is None and not self._start.restarts:
            verify = partial(self.verify_references, config=config, inputs=inputs, say=tell)
            verify(store, rows, evaluation=False)
            verify(heldout, problem_rows, evaluation=True)
        problems = heldout_problems(
            heldout,
            problem_rows,
            tokenize=tokenize,
            max_tokens=max_tokens,
            on_long_prompt=config.data.on_long_prompt,
            say=tell,
        )
        # Held-out prompts never get an outcome: the baseline and its curriculum know the others only.
        shards.register(store.keys().take(rows).to_pylist(), store.source_names(rows), store.features(rows))
        prompts = self.prompt_stream(
            store=store,
            rows=rows,
            schedule=parts.prompt_schedule(config, inputs, max_prompt_tokens=max_tokens),
            curriculum=Curriculum(config.curriculum, seed=config.seed),
            baseline=shards,
            tokenize=tokenize,
            draws_dir=self._run.draws,
        )
        stack.callback(prompts.close)
        if (checkpoint := self._start.checkpoint) is not None and self._start.state is not None:
            shards.restore(checkpoint / "baseline")
            saved = checkpoint / "draws"  # checkpoints of earlier versions leave them in the run
            draws = saved if saved.is_dir() else self._run.draws
            prompts.load_state_dict(self._start.state["prompts"], draws_dir=draws)
        elif config.baseline.warm_start not in (None, OWN_WARM_START):
            parts.warm_start(config, shards, store, say=tell)
        say(self._console, f"{store.report()}; {len(problems):,} held-out problems")
        prompts.stream.prefetch_next()
        return prompts, problems

    def _loop(
        self,
        stack: ExitStack,
        telemetry: Telemetry,
        learner: LearnerGroup,
        generators: GeneratorPool,
        shards: BaselineShards,
        scorers: ScorerPool,
        prompts: CurriculumPrompts,
        problems: list[DrawnPrompt],
    ) -> TrainingLoop:
        config = self._config
        tokenize = PromptTokenizer.of(self._inputs.model, config.model)
        service = CompletionService(
            generators=generators, scorers=scorers, opened=tokenize.opened, worked=telemetry.worked
        )

        rollout = RolloutLoop(
            service=service,
            prompts=prompts.stream,
            baseline=shards,
            settings=config.rollout,
            keep_groups=parts.keeps_groups(config),
            seed=config.seed,
            stall_s=config.deadlines.generation_s + config.deadlines.startup_s,
            version=self._start.version,
            check=lambda: loop.check(),
        )
        if self._start.state is not None:
            rollout.load_state_dict(self._start.state["rollout"], redraw=prompts.redraw)
        max_gap = config.generator.max_logprob_gap
        assert max_gap is not None, "resolve() sets it"
        sync = WeightSync(
            publisher=learner,
            subscribers=generators,
            release=rollout.release,
            max_gap=max_gap,
            timeout_s=config.deadlines.sync_s,
            ended=partial(telemetry.worked, "driver"),
        )
        first = prompts.first_token_ids(NUM_PROBES)
        sync.run(self._start.version, [ParityProbe(token_ids=token_ids) for token_ids in first if len(token_ids) >= 2])
        builder = parts.batch_builder(config)
        loop = TrainingLoop(
            max_steps=config.train.max_steps,
            evaluation=config.eval,
            checkpoints=config.checkpoint,
            step_timeout_s=config.deadlines.step_s,
            rollout=rollout,
            service=service,
            builder=builder,
            learner=learner,
            sync=sync,
            baseline=shards,
            curriculum=prompts,
            evaluator=parts.evaluator(config, service, problems, stack) if problems else None,
            telemetry=telemetry,
            notices=parts.notices(config, builder, telemetry),
            interrupts=self._interrupts,
            save=lambda step, idle: self._save(step, idle, loop, learner, shards, rollout, prompts),
            max_masked_steps=config.train.max_bad_steps,
            unscored=parts.unscored_watch(config, self._start),
            totals=RunTotals(telemetry.last, started=parts.counted_from(self._start, telemetry, started=self._started)),
            processes=self._processes,
            first_step=self._start.step,
            learner_restarts=self._start.restarts,
            initial_score=self._start.initial_score,
        )
        return loop

    def _telemetry(self, stack: ExitStack, generators: GeneratorPool) -> Telemetry:
        return self.start_telemetry(
            stack,
            self._config,
            self._run,
            first_step=self._start.step,
            resumed=self._start.state is not None,
            progress=self._progress,
            console=self._console,
            profile_generators=generators.profile,
        )

    def _save(
        self,
        step: int,
        idle: Callable[[], None],
        loop: TrainingLoop,
        learner: LearnerGroup,
        shards: BaselineShards,
        rollout: RolloutLoop,
        prompts: CurriculumPrompts,
    ) -> None:
        """Checkpoint after ``step`` finished steps."""
        self._lock.check()
        deadline = self._config.deadlines.step_s

        def write_parts(directory: Path) -> dict[str, FileDigest]:
            # First, as the state was taken: the parts take a while in which the stream moves on.
            prompts.save_draws(directory / "draws")
            write_config(directory / "config.yaml", self._config)
            written = learner.save(
                directory=directory / "learner", model_directory=directory / "model", timeout_s=deadline, idle=idle
            )
            shards.snapshot(directory / "baseline", idle=idle)
            self._lock.check()  # that took a while: what follows makes it the newest, and deletes an older one
            return written

        path = write_checkpoint(
            self._run,
            step=step,
            state=_state(step, loop, rollout, prompts),
            write_parts=write_parts,
            keep=self._config.checkpoint.keep,
            held=() if self._uploads is None else self._uploads.held,
        )
        if self._uploads is not None:
            self._uploads.add(path)


def _state(step: int, loop: TrainingLoop, rollout: RolloutLoop, prompts: CurriculumPrompts) -> dict[str, Any]:
    """What a checkpoint says beside its parts."""
    score = loop.initial_score
    return {
        "step": step,
        "version": rollout.version,
        "rollout": rollout.state_dict(),
        "prompts": prompts.state_dict(),
        "initial_score": None if score is None else asdict(score),
    }


def _look_after(learner: LearnerGroup, interrupts: InterruptFlag) -> None:
    """While generators start, which may take minutes: a signal, or ranks that have ended by then."""
    interrupts.check()
    learner.check()
