"""The half of the pipeline that generates and scores, as training, evaluation and precomputation start it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bolt_ray.actors.generator_pool import GeneratorPool
from bolt_ray.actors.generator_resources import GeneratorResources
from bolt_ray.actors.scorer_pool import ScorerPool
from bolt_ray.commands.shared.inputs import RunInputs
from bolt_ray.commands.shared.resources import RAY_DATA_CPUS
from bolt_ray.config.resolve import engine_settings
from bolt_ray.config.schema import RunConfig
from bolt_ray.data.ingest.read_plan import source_names
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.rewards.equivalence import MathEquality


def launch_generators(
    config: RunConfig, inputs: RunInputs, *, version: int = 0, launch: Callable[..., GeneratorPool] = GeneratorPool
) -> GeneratorPool:
    """Launch the generators and return at once; ``wait_ready`` waits for them. The caller closes the pool."""
    cluster = config.cluster
    return launch(
        cluster=cluster,
        engine=engine_settings(config, model_path=inputs.model, context_tokens=inputs.context_tokens),
        sampling=config.sampling,
        resources=GeneratorResources(
            num_cpus=cluster.cpus_per_generator,
            num_gpus=cluster.gpus_per_generator * cluster.tensor_parallel_size if config.uses_gpu else 0.0,
            num_threads=max(1, int(cluster.cpus_per_generator)),
            spare_cpus=RAY_DATA_CPUS,
        ),
        policy_version=version,
        startup_s=config.deadlines.startup_s,
        stall_s=config.deadlines.generation_s,
    )


def start_scorers(
    config: RunConfig, inputs: RunInputs, *, start: Callable[..., ScorerPool] = ScorerPool.start
) -> ScorerPool:
    """Start the scorers with every reward built. The caller closes the pool."""
    return start(
        specs=config.rewards,
        settings=config.scoring,
        by_source=rewards_by_source(inputs.train),
        eval_by_source=rewards_by_source(inputs.heldout or inputs.train),
        room_s=config.deadlines.startup_s,
        failure_window_s=config.cluster.failure_window_s,
    )


def math_equality(config: RunConfig) -> MathEquality:
    """What the votes of an evaluation are compared with; the caller closes it."""
    scoring = config.scoring
    return MathEquality(
        reward=next((reward for reward in config.rewards if reward.type == "math"), None),
        timeout_s=scoring.timeout_s,
        memory_mb=scoring.memory_mb,
        startup_timeout_s=scoring.startup_timeout_s,
    )


def rewards_by_source(datasets: Sequence[DatasetSettings]) -> dict[str, list[str]]:
    """The rewards of the datasets that name theirs; the others get all of them."""
    found: dict[str, list[str]] = {}
    for name, dataset in zip(source_names(datasets), datasets, strict=True):
        if isinstance(dataset.reward, str):
            found[name] = [dataset.reward]
        elif dataset.reward is not None:
            found |= {name: [], **{f"{name}: {source}": [reward] for source, reward in dataset.reward.items()}}
    return found
