"""The driver's side of the learner: a Ray Train group that runs as long as the training."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.util.placement_group import remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bolt_ray.actors.cluster_watch import ClusterWatch
from bolt_ray.actors.learner_mailbox import (
    Command,
    PublishCommand,
    RemoteLearnerMailbox,
    Reply,
    SaveCommand,
    StopCommand,
    TrainCommand,
)
from bolt_ray.actors.learner_stall import MAILBOX_S, tell_stall
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.ray_results import first_line, get_result
from bolt_ray.core.digests import FileDigest
from bolt_ray.core.errors import LearnerLostError, StallError
from bolt_ray.core.records import StepReport, TrainingBatch
from bolt_ray.engines.learner.settings import LearnerSettings
from bolt_ray.engines.profiler import ProfileTarget
from bolt_ray.training.lean_trainer import LeanTrainer, what_ended
from bolt_ray.training.learner_worker import PublishedWeights, WorkerSettings, train_worker
from bolt_ray.training.process_group import ProcessGroupConfig

log = logging.getLogger(__name__)

POLL_S = 0.05
END_S = 90.0
"""How long a group that was killed may take to be gone: Ray Train waits a minute for room, and hears nothing then."""


class LearnerGroup:
    """W DeepSpeed ranks under Ray Train; commands go through a ``LearnerMailbox``.

    ``fit`` blocks, so it runs in its own thread; when it ends early, the call that waits raises its error. ``idle`` is
    called while a command runs: generation continues there when staleness allows.

    A group whose rank is gone or stuck is lost as a whole: nothing of it is started again, for a new process would
    hold other weights. Its calls raise ``LearnerLostError``, and another group goes on from a checkpoint.
    """

    def __init__(
        self,
        *,
        settings: LearnerSettings,
        world_size: int,
        resources_per_worker: dict[str, float],
        use_gpu: bool,
        storage_path: Path,
        run_name: str,
        collective_timeout_s: float,
        restore_from: Path | None = None,
        num_threads: int = 1,
        adapters: Path | None = None,
        adapters_kept: int = 2,
        profile: Callable[[int], ProfileTarget | None] = lambda step: None,
        watch: ClusterWatch | None = None,
        work: Callable[[dict[str, Any]], None] = train_worker,
    ) -> None:
        """
        Args:
            profile: what is recorded of a step, counted from 1.
            adapters: directory through which the generators get LoRA adapters; None publishes all weights.
            adapters_kept: the newest adapters that stay there, for the requests that still use them.
            watch: knows which nodes are about to go; default: the cluster's.
            work: what every rank runs.
        """
        self._adapters = adapters
        self._adapters_kept = adapters_kept
        self._profile = profile
        self._watch = watch or ClusterWatch()
        if adapters is not None:
            shutil.rmtree(adapters, ignore_errors=True)
            adapters.mkdir(parents=True)
        self._world_size = world_size
        # On the driver's node, which the run cannot outlive anyway.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._mailbox: Any = RemoteLearnerMailbox.options(
            num_cpus=0, max_concurrency=world_size * 4 + 8, scheduling_strategy=here
        ).remote(world_size=world_size)
        worker = WorkerSettings(
            mailbox=self._mailbox,
            learner=settings,
            restore_from=None if restore_from is None else str(restore_from),
            num_threads=num_threads,
        )
        trainer = LeanTrainer(
            work,
            mailbox=self._mailbox,
            train_loop_config={"settings": worker},
            scaling_config=ScalingConfig(
                num_workers=world_size, use_gpu=use_gpu, resources_per_worker=resources_per_worker
            ),
            backend_config=ProcessGroupConfig(
                backend="nccl" if use_gpu else "gloo", timeout_s=int(collective_timeout_s)
            ),
            run_config=RunConfig(
                name=run_name,
                storage_path=str(storage_path),
                # The second one is endless by default.
                failure_config=FailureConfig(max_failures=0, max_preemption_failures=0),
            ),
        )
        self._processes: tuple[ProcessInfo, ...] = ()
        self._owners: dict[str, Any] = {}
        self._mailbox_process: ProcessInfo | None = None
        self._started = False
        self._stuck = False
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._fit, args=(trainer,), name="ray-train-fit", daemon=True)
        self._thread.start()

    @property
    def processes(self) -> tuple[ProcessInfo, ...]:
        """The ranks', as of their start or the last command."""
        return self._processes

    def leaving(self) -> str:
        """Which ranks are on nodes that the cluster takes away, in words; "" for none."""
        draining = self._watch.draining()
        names = [f"{process.name} ({process.node})" for process in self._processes if process.node_id in draining]
        return f"the cluster takes away the node of {', '.join(names)}" if names else ""

    def check(self) -> None:
        """Raise what ended the ranks, if something did: others may be waited for first."""
        if self._ended.is_set():
            raise what_ended(self._error, waiting_for="the other processes to start", started=self._started)

    def wait_ready(self, *, timeout_s: float, idle: Callable[[], None] = lambda: None) -> None:
        """Wait until every rank has loaded its model.

        Raises:
            StallError: they did not within ``timeout_s``.
            LearnerLostError: a rank's process died.
            BoltRayError: raised by a rank.
        """
        ready = self._mailbox.wait_ready.remote()
        self._owners = self._wait(ready, what="the learner ranks to start", timeout_s=timeout_s, idle=idle)
        self._processes = get_result(self._mailbox.registered.remote(), timeout_s=timeout_s)
        self._started = True
        self._mailbox_process = get_result(self._mailbox.process.remote(), timeout_s=timeout_s)

    def train(self, batch: TrainingBatch, *, timeout_s: float, idle: Callable[[], None]) -> StepReport:
        command = TrainCommand(batch=ray.put(batch), profile=self._profile(batch.step + 1))
        report = self._call(command, what=f"training step {batch.step}", timeout_s=timeout_s, idle=idle)
        assert isinstance(report, StepReport)
        return report

    def publish(self, *, version: int, probes: Sequence[NDArray[np.int32]], timeout_s: float) -> PublishedWeights:
        """The policy as ``version``: its weights in the object store, or its adapter on disk, and its log-probs of
        ``probes``."""
        adapter = None if self._adapters is None else self._adapters / f"version-{version:06d}"
        command = PublishCommand(
            version=version, probes=list(probes), adapter_directory=None if adapter is None else str(adapter)
        )
        published = self._call(command, what=f"the weights of version {version}", timeout_s=timeout_s)
        assert isinstance(published, PublishedWeights)
        if self._adapters is not None:
            for old in sorted(self._adapters.iterdir())[: -self._adapters_kept]:
                shutil.rmtree(old)
        return published

    def save(
        self, *, directory: Path | None, model_directory: Path | None, timeout_s: float, idle: Callable[[], None]
    ) -> dict[str, FileDigest]:
        """Write the learner's state and its model; the digests of what the ranks wrote, by path.

        Raises:
            StorageError: a rank could not write; the learner goes on as before.
        """
        command = SaveCommand(
            directory=None if directory is None else str(directory),
            model_directory=None if model_directory is None else str(model_directory),
        )
        written: dict[str, FileDigest] = self._call(
            command, what="the learner's checkpoint", timeout_s=timeout_s, idle=idle
        )
        return written

    def close(self, *, timeout_s: float = 60.0) -> None:
        """Stop the ranks and wait for Ray Train; a group that does not stop by itself is killed."""
        if self._started and not self._stuck and not self._ended.is_set():
            self._mailbox.call.remote(StopCommand())
            self._ended.wait(timeout_s)
        self._kill()
        ray.kill(self._mailbox)

    def _kill(self) -> None:
        """End what is left of the group, wherever it is, and free its room, as the end of a controller does not."""
        try:
            owners = self._owners or ray.get(self._mailbox.owners.remote(), timeout=MAILBOX_S)
        except (RayError, GetTimeoutError):
            owners = {}
        if "placement" in owners:
            remove_placement_group(owners["placement"])
        elif "controller" in owners and not self._ended.is_set():
            owners["controller"].abort.remote()
        if not self._ended.wait(END_S):
            log.warning("the learner's processes are not gone after %.0f s", END_S)
            if "controller" in owners:
                ray.kill(owners["controller"])

    def _call(self, command: Command, *, what: str, timeout_s: float, idle: Callable[[], None] = lambda: None) -> Any:
        """Rank 0's result of ``command``, which the mailbox has as a reference.

        Raises:
            LearnerLostError: a rank is gone or did not answer within ``timeout_s``, or the mailbox is.
            BoltRayError: raised by a rank.
        """
        try:
            reply: Reply = self._wait(self._mailbox.call.remote(command), what=what, timeout_s=timeout_s, idle=idle)
        except StallError as error:
            self._stuck = True
            raise LearnerLostError(str(error)) from error
        self._processes = reply.processes
        if reply.result is None:
            return None
        try:
            return get_result(reply.result[0])
        except RayError as error:
            raise LearnerLostError(f"learner rank 0 is gone with its answer to {what}: {first_line(error)}") from error

    def _wait(self, ref: Any, *, what: str, timeout_s: float, idle: Callable[[], None]) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            done, _ = ray.wait([ref], timeout=POLL_S)
            if done:
                try:
                    return get_result(ref)
                except RayActorError as error:
                    reason = f"the learner's mailbox is gone while waiting for {what}: {first_line(error)}"
                    raise LearnerLostError(reason) from error
            if self._ended.is_set():
                raise what_ended(self._error, waiting_for=what, started=self._started)
            if time.monotonic() > deadline:
                told = tell_stall(self._mailbox, what, waited_s=timeout_s, own=self._mailbox_process)
                raise StallError(f"{told}: the learner ranks did not answer")
            idle()

    def _fit(self, trainer: LeanTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self._error = error
        finally:
            self._ended.set()
