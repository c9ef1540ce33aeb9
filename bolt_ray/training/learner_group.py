"""The driver's side of the learner: a Ray Train group that runs as long as the training."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from bolt_ray.actors.learner_mailbox import (
    Command,
    PublishCommand,
    RemoteLearnerMailbox,
    Reply,
    SaveCommand,
    StopCommand,
    TrainCommand,
)
from bolt_ray.actors.learner_stall import tell_stall
from bolt_ray.actors.processes import ProcessInfo
from bolt_ray.actors.ray_results import get_result
from bolt_ray.core.errors import BoltRayError, RunError, StallError
from bolt_ray.core.records import StepReport, TrainingBatch
from bolt_ray.engines.learner.settings import LearnerSettings
from bolt_ray.engines.profiler import ProfileTarget
from bolt_ray.training.learner_worker import PublishedWeights, WorkerSettings, train_worker
from bolt_ray.training.process_group import ProcessGroupConfig

POLL_S = 0.05

NOT_NEEDED = ("DatasetsCallback", "PlacementGroupCleanerCallback")
"""Parts of Ray Train that start a process each: for datasets handed to the workers, which get none, and for placement
groups that outlive their driver, which ours cannot."""


class LeanTrainer(DataParallelTrainer):  # type: ignore[misc]  # Ray Train has no types
    """Starts two processes less, about 4 s of CPU time on a laptop; where Ray Train has other names, it starts them."""

    def _create_default_callbacks(self) -> list[Any]:
        return [part for part in super()._create_default_callbacks() if type(part).__name__ not in NOT_NEEDED]


class LearnerGroup:
    """W DeepSpeed ranks under Ray Train; commands go through a ``LearnerMailbox``.

    ``fit`` blocks, so it runs in its own thread; when it ends early, the call that waits raises its error. ``idle`` is
    called while a command runs: generation continues there when staleness allows.
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
    ) -> None:
        """
        Args:
            profile: what is recorded of a step, counted from 1.
            adapters: directory through which the generators get LoRA adapters; None publishes all weights.
            adapters_kept: the newest adapters that stay there, for the requests that still use them.
        """
        self._adapters = adapters
        self._adapters_kept = adapters_kept
        self._profile = profile
        if adapters is not None:
            shutil.rmtree(adapters, ignore_errors=True)
            adapters.mkdir(parents=True)
        self._world_size = world_size
        self._mailbox: Any = RemoteLearnerMailbox.options(num_cpus=0.01, max_concurrency=world_size * 4 + 8).remote(
            world_size=world_size
        )
        worker = WorkerSettings(
            mailbox=self._mailbox,
            learner=settings,
            restore_from=None if restore_from is None else str(restore_from),
            num_threads=num_threads,
        )
        trainer = LeanTrainer(
            train_worker,
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
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        self._processes: tuple[ProcessInfo, ...] = ()
        self._mailbox_process: ProcessInfo | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._fit, args=(trainer,), name="ray-train-fit", daemon=True)
        self._thread.start()

    @property
    def processes(self) -> tuple[ProcessInfo, ...]:
        """The ranks', as of the last command."""
        return self._processes

    def wait_ready(self, *, timeout_s: float, idle: Callable[[], None] = lambda: None) -> None:
        """Wait until every rank has loaded its model."""
        self._wait(
            self._mailbox.wait_ready.remote(),
            what="the learner ranks to start",
            timeout_s=timeout_s,
            idle=idle,
        )
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

    def save(self, *, directory: Path | None, model_directory: Path | None, timeout_s: float) -> None:
        command = SaveCommand(
            directory=None if directory is None else str(directory),
            model_directory=None if model_directory is None else str(model_directory),
        )
        self._call(command, what="the learner's checkpoint", timeout_s=timeout_s)

    def close(self, *, timeout_s: float = 60.0) -> None:
        """Stop the ranks and wait for Ray Train; a group that no longer answers is left to Ray's shutdown."""
        if not self._ended.is_set():
            self._mailbox.call.remote(StopCommand())
            self._ended.wait(timeout_s)
        ray.kill(self._mailbox)

    def _call(self, command: Command, *, what: str, timeout_s: float, idle: Callable[[], None] = lambda: None) -> Any:
        """Rank 0's result of ``command``, which the mailbox has as a reference."""
        reply: Reply = self._wait(self._mailbox.call.remote(command), what=what, timeout_s=timeout_s, idle=idle)
        self._processes = reply.processes
        return None if reply.result is None else get_result(reply.result[0])

    def _wait(self, ref: Any, *, what: str, timeout_s: float, idle: Callable[[], None]) -> Any:
        deadline = time.monotonic() + timeout_s
        while True:
            done, _ = ray.wait([ref], timeout=POLL_S)
            if done:
                return get_result(ref)
            if self._ended.is_set():
                raise self._failure(what)
            if time.monotonic() > deadline:
                told = tell_stall(self._mailbox, what, waited_s=timeout_s, own=self._mailbox_process)
                raise StallError(f"{told}: the learner ranks did not answer")
            idle()

    def _failure(self, what: str) -> BoltRayError:
        cause: BaseException | None = self._error
        while cause is not None and not isinstance(cause, BoltRayError):
            worker_errors = getattr(cause, "worker_failures", None)
            cause = (
                next(iter(worker_errors.values()))
                if worker_errors
                else (cause.__cause__ or getattr(cause, "cause", None))
            )
        if cause is not None:
            return cause
        return RunError(f"the learner ended while waiting for {what}: {self._error!r}")

    def _fit(self, trainer: LeanTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001 - handed to whoever waits
            self._error = error
        finally:
            self._ended.set()
