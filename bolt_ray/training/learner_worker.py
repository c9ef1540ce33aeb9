"""The training function of every rank of the Ray Train group: a loop that pulls commands and executes them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import ray.train
from numpy.typing import NDArray

from bolt_ray.actors.learner_mailbox import (
    Command,
    PublishCommand,
    SaveCommand,
    StopCommand,
    TrainCommand,
)
from bolt_ray.actors.processes import ProcessMonitor
from bolt_ray.core.digests import FileDigest
from bolt_ray.core.errors import BoltRayError, StorageError
from bolt_ray.engines.learner.settings import LearnerSettings
from bolt_ray.engines.model_directory import model_directory
from bolt_ray.engines.profiler import Recording

# Ray Train's controller imports this file for the name of ``train_worker`` alone; PyTorch comes with a rank.
if TYPE_CHECKING:
    from bolt_ray.engines.learner.learner import DeepSpeedLearner
    from bolt_ray.engines.weight_buckets import WeightManifest

BUCKET_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedWeights:
    """The policy of one version, ready to be pulled: all weights, or the directory of an adapter.

    Attributes:
        manifest: names, shapes and layout of every tensor; None with an adapter.
        buckets: object references of the buckets, in the manifest's order.
        adapter: the adapter's directory, in PEFT's format.
        probe_logprobs: per probe sequence of n tokens, float32 [n-1], log p of its tokens from the second on, by the
            model alone (temperature 1, nothing filtered out).
        sampled_logprobs: the same as sampled in training.
    """

    manifest: WeightManifest | None
    buckets: list[Any]
    adapter: str | None
    probe_logprobs: list[NDArray[np.float32]]
    sampled_logprobs: list[NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Arguments of a rank: the mailbox's actor handle, the learner's settings, a checkpoint to load first."""

    mailbox: Any
    learner: LearnerSettings
    restore_from: str | None
    num_threads: int


def train_worker(config: dict[str, Any]) -> None:
    """``train_loop_per_worker``: build the learner, register, then execute commands until ``StopCommand``."""
    import ray.train.torch
    import torch

    from bolt_ray.engines.learner.learner import DeepSpeedLearner

    settings: WorkerSettings = config["settings"]
    device = ray.train.torch.get_device()
    if device.type == "cuda":  # without a GPU of its own a rank may still see the machine's
        torch.cuda.set_device(device)
    torch.set_num_threads(settings.num_threads)
    os.environ["OMP_NUM_THREADS"] = str(settings.num_threads)
    mailbox, rank = settings.mailbox, ray.train.get_context().get_world_rank()
    monitor = ProcessMonitor("learner", f"learner-{rank}")
    model = model_directory(settings.learner.model_path)
    learner = DeepSpeedLearner(replace(settings.learner, model_path=str(model)))
    if settings.restore_from is not None:
        learner.load(settings.restore_from)
    ray.get(mailbox.register.remote(rank, monitor.info()))
    number = 0
    while True:
        number, command = ray.get(mailbox.next_command.remote(rank, number))
        if isinstance(command, StopCommand):
            learner.close()
            ray.get(mailbox.answer.remote(rank, number, None))
            return
        try:
            result = _execute(command, learner=learner, rank=rank)
        except StorageError as error:  # the same on every rank, and the learner is as before
            ray.get(mailbox.answer.remote(rank, number, error, monitor.info()))
            continue
        except BoltRayError as error:
            ray.get(mailbox.answer.remote(rank, number, error))
            raise
        # As a reference: the mailbox would otherwise import PyTorch to read what it only hands on.
        boxed = None if result is None else [ray.put(result)]
        ray.get(mailbox.answer.remote(rank, number, boxed, monitor.info()))


def _execute(command: Command, *, learner: DeepSpeedLearner, rank: int) -> Any:
    if isinstance(command, TrainCommand):
        recording = None if command.profile is None else Recording.start(command.profile, who=f"learner-{rank}")
        try:
            return learner.train_step(ray.get(command.batch))
        finally:
            if recording is not None:
                recording.stop()
    if isinstance(command, PublishCommand):
        return _publish(learner, command, rank=rank)
    assert isinstance(command, SaveCommand), command
    written: dict[str, FileDigest] = {}
    for directory, save in ((command.directory, learner.save), (command.model_directory, learner.save_hf)):
        if directory is not None:
            written |= {f"{directory}/{name}": digest for name, digest in save(directory).items()}
    return written if rank == 0 else None


def _publish(learner: DeepSpeedLearner, command: PublishCommand, *, rank: int) -> PublishedWeights | None:
    """Collective: every rank takes part in gathering; rank 0 returns the weights."""
    from bolt_ray.engines.weight_buckets import pack_buckets

    plain, sampled = learner.probe(command.probes)
    manifest, buckets = None, []
    if command.adapter_directory is not None:
        learner.save_adapter(command.adapter_directory)
    elif rank == 0:
        manifest, packed = pack_buckets(learner.iter_weights(), bucket_bytes=BUCKET_BYTES, version=command.version)
        buckets = [ray.put(bucket) for bucket in packed]
    else:
        for _ in learner.iter_weights():
            pass
    if rank != 0:
        return None
    return PublishedWeights(
        manifest=manifest,
        buckets=buckets,
        adapter=command.adapter_directory,
        probe_logprobs=plain,
        sampled_logprobs=sampled,
    )
