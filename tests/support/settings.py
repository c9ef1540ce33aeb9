"""Settings of learner and engine by the names of their fields, whichever section they belong to."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from pydantic import TypeAdapter

from bolt_ray.core.kl import KLOptions, KLSettings
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.engines.learner.settings import LearnerSettings, TrainSettings
from bolt_ray.engines.settings import ModelSettings, SamplingSettings
from bolt_ray.engines.vllm.settings import GIB, EngineSettings, GeneratorSettings


def learner_settings(*, model_path: str, **changes: Any) -> LearnerSettings:
    """``learner_settings(model_path=…, learning_rate=1e-3, use_peft=True, kl_coef=0.1)``; float32 by default.

    Sections with names of their own (``loss``, ``kl``, ``reference`` …) are given as records.
    """
    kl = {
        **asdict(changes.pop("kl", KLOptions())),
        **{k[3:]: changes.pop(k) for k in [*changes] if k.startswith("kl_")},
    }
    return LearnerSettings(
        model_path=model_path,
        model=ModelSettings(**({"dtype": "float32"} | _taken(changes, ModelSettings))),
        train=TrainSettings(**_taken(changes, TrainSettings)),
        sampling=SamplingSettings(**_taken(changes, SamplingSettings)),
        kl=KLSettings(**kl),
        reward_width=changes.pop("reward_width", 1.0),
        seed=changes.pop("seed", 0),
        **changes,
    )


def engine_settings(*, model_dir: str, **changes: Any) -> EngineSettings:
    """``engine_settings(model_dir=…, max_num_seqs=8, kv_cache_bytes=64 << 20)``, on the CPU in float32."""
    if "kv_cache_bytes" in changes:
        changes["kv_cache_gib"] = changes.pop("kv_cache_bytes") / GIB
    if (rank := changes.pop("lora_rank", None)) is not None:
        changes |= {"use_peft": True, "lora_r": rank}
    dtype = changes.pop("dtype", "float32")
    return EngineSettings(
        model_dir=model_dir,
        dtype=dtype,
        model=ModelSettings(**_taken(changes, ModelSettings)),
        generator=GeneratorSettings(**_taken(changes, GeneratorSettings)),
        **({"max_model_len": None, "on_gpu": False, "tensor_parallel_size": 1, "seed": 0} | changes),
    )


def _taken(changes: dict[str, Any], section: type) -> dict[str, Any]:
    """The changes of one section's fields, removed from the rest."""
    names = [field.name for field in fields(section) if field.name in changes]
    return {name: changes.pop(name) for name in names}


def dataset(tree: dict[str, Any]) -> DatasetSettings:
    """An entry of ``datasets:`` as the configuration reads it."""
    return TypeAdapter(DatasetSettings).validate_python(tree)
