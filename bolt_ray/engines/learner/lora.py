"""LoRA through PEFT: attaching an adapter, its weights by PEFT's names, its files, and merging it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bolt_ray.core.digests import FileDigest
from bolt_ray.core.errors import ModelError
from bolt_ray.engines.learner.model import copy_model_files
from bolt_ray.engines.learner.rank_files import RankFiles
from bolt_ray.engines.learner.weights import gathered, iter_named_weights
from bolt_ray.engines.settings import ModelSettings

ADAPTER = "default"


def attach_adapter(model: Any, settings: ModelSettings, *, seed: int) -> Any:
    """Put a new adapter into ``model`` (in place) and freeze the rest.

    A is drawn from the seed and B is 0, so the policy starts as the base model; all ranks draw the same A.

    Returns:
        The PEFT model around ``model``.

    Raises:
        ModelError: no layer of that name, or the output layer was named.
    """
    import peft

    targets: Any = settings.lora_target_modules
    if not isinstance(targets, str):
        targets = list(targets)
        if "lm_head" in targets:
            raise ModelError("lora.target_modules names lm_head; adapters go on the inner layers only")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules=targets,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            wrapped = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
        except ValueError as error:
            raise ModelError(f"no adapter can be put on {settings.lora_target_modules}: {error}") from error
    return wrapped


@torch.no_grad()
def iter_adapter_weights(peft_model: Any, *, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """The adapter by the names of PEFT's ``adapter_model.safetensors``. Collective under ZeRO-3."""
    for name, parameter in peft_model.named_parameters():
        if f".{ADAPTER}." not in name:
            continue
        with gathered([parameter]):
            yield name.replace(f".{ADAPTER}.", "."), parameter.data if dtype is None else parameter.data.to(dtype)


def save_adapter(peft_model: Any, directory: Path, *, base: str) -> dict[str, FileDigest]:
    """Write ``adapter_model.safetensors`` and ``adapter_config.json`` as PEFT and vLLM read them. Collective.

    Args:
        base: path of the base model, noted in the config.

    Returns:
        the digest of the weights, by file name.

    Raises:
        StorageError: a file could not be written; on every rank.
    """
    files = RankFiles(directory)
    files.tensors(iter_adapter_weights(peft_model), stem="adapter_model", shard_bytes=2**62)
    config = copy.deepcopy(peft_model.peft_config[ADAPTER])
    config.base_model_name_or_path = base
    config.inference_mode = True
    files.on_first_rank(lambda: config.save_pretrained(str(directory)))
    return files.finish()


def export_merged(base: str, adapter: str, out: Path, *, dtype: torch.dtype | None = None) -> None:
    """Merge an adapter into its base and write a plain model directory.

    Args:
        base: directory of the base model.
        adapter: directory with ``adapter_config.json`` and ``adapter_model.safetensors``.
        out: directory to fill; made if it does not exist.
        dtype: of the weights written; None takes the base model's.

    Raises:
        ModelError: one of the two cannot be loaded, or they do not fit each other.
        StorageError: ``out`` cannot be written.
    """
    import peft
    from transformers import AutoConfig, AutoModelForCausalLM

    if not (Path(adapter) / "adapter_config.json").is_file():
        raise ModelError(f"{adapter!r} is no adapter directory: it has no adapter_config.json")
    try:
        wanted = dtype or AutoConfig.from_pretrained(base).dtype or torch.float32
        # Merged in float32: adding a small update to a rounded bfloat16 weight would lose most of it.
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot merge adapter {adapter!r} into {base!r}: {error}") from error
    files = RankFiles(out)
    files.tensors(iter_named_weights(merged, dtype=wanted, name_tied_output=False), stem="model")
    files.on_first_rank(lambda: copy_model_files(base, out, dtype=wanted))
    files.finish()
