"""What the scores of a warm-start file depend on: begun under one fingerprint, it is not continued under another."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from bolt_ray.config.schema import RunConfig
from bolt_ray.core.plugins import plain_name
from bolt_ray.engines.settings import ModelSettings
from bolt_ray.rewards.function import FunctionSettings
from bolt_ray.rewards.process.wire import to_message
from bolt_ray.rewards.settings import RewardSettings

_SAMPLED_BYTES, _SAMPLES_PER_FILE = 1 << 16, 32


def score_fingerprint(
    config: RunConfig,
    *,
    store_address: str,
    model_path: Path,
    adapter: Path | None,
    num_samples: int,
) -> dict[str, Any]:
    """Plain values by name. Content counts, not where it lies; nor does how many prompts are asked for."""
    rewards = [to_message(_without_place(reward)) for reward in config.rewards]
    own = [_source_of(reward) for reward in config.rewards if isinstance(reward, FunctionSettings)]
    by_source = [dataset.reward for dataset in config.datasets]
    return {
        "model": directory_digest(model_path),
        "adapter": None if adapter is None else directory_digest(adapter),
        "dataset": store_address,
        "rewards": _digest([rewards, own, by_source]),
        "num_samples": num_samples,
        "sampling": asdict(config.sampling),
        "prompts": _digest(_of_prompts(config.model)),
        "skip_truncated": config.baseline.skip_truncated,
        "seed": config.seed,
    }


def directory_digest(directory: Path) -> str:
    """A digest of a model's or adapter's files: their names, sizes and a sample of the bytes of each.

    The sample, spread over the file, costs the same for any size and differs after any training of the weights.
    """
    digest = xxhash.xxh3_128()
    for path in sorted(directory.iterdir()):
        if not path.is_file():
            continue
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            for start in np.linspace(0, max(0, size - _SAMPLED_BYTES), _SAMPLES_PER_FILE).astype(np.int64).tolist():
                file.seek(start)
                digest.update(file.read(_SAMPLED_BYTES))
    return digest.hexdigest()


def _digest(plain: Any) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(plain, sort_keys=True).encode())


def _of_prompts(model: ModelSettings) -> list[Any]:
    """What the settings of the model make of a prompt."""
    template = None if model.chat_template is None else Path(model.chat_template).read_text(encoding="utf-8")
    return [template, model.chat_template_kwargs, model.prefill]


def _without_place(reward: RewardSettings) -> RewardSettings:
    """The settings without the directory of a user's file."""
    if not isinstance(reward, FunctionSettings):
        return reward
    return replace(reward, function=plain_name(reward.function))


def _source_of(reward: FunctionSettings) -> str:
    """The text of the file of a user's reward, "" for an installed module: a changed reward gives other scores."""
    place = Path(reward.function.rpartition(":")[0])
    return place.read_text(encoding="utf-8") if place.suffix == ".py" else ""
