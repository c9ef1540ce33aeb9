"""What a run reads: the model directory and the datasets, the embedded ones made on the spot."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bolt_ray.commands.shared.made_datasets import EMBEDDED, check_made, datasets_as_files, is_made
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError, EnvironmentProblem, ModelError
from bolt_ray.core.secrets import MASK, left_out
from bolt_ray.data.ingest.locate import find_files, is_hub_dataset, is_uri
from bolt_ray.data.settings import DatasetSettings
from bolt_ray.engines.model_directory import hub_snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """Where everything is.

    Attributes:
        model_path: a Hugging Face model directory, on this machine.
        hub_model: ``owner/name@commit`` of a model of the hub.
        train: the datasets to train on.
        heldout: the datasets to evaluate on; empty if they are split off the training data, or there are none.
        context_tokens: prompt plus completion that the model takes at most.
    """

    model_path: Path
    train: tuple[DatasetSettings, ...]
    heldout: tuple[DatasetSettings, ...]
    context_tokens: int
    hub_model: str | None = None

    @property
    def model(self) -> str:
        """What other processes find the model by, on whatever node they are: see `model_directory`."""
        return self.hub_model or str(self.model_path)


def prepare_inputs(config: RunConfig, *, say: Callable[[str], None], show_progress: bool = True) -> RunInputs:
    """Resolve the model and datasets; make those that are made, when they are missing, and teach the embedded model.

    Raises:
        ModelError: the model directory is missing or is not one, or the hub does not give it.
        ConfigError: prompt and completion together cannot fit the model's context.
    """
    model_path = _model_path(config, say=say, show_progress=show_progress)
    train, heldout = datasets_as_files(config, say=say, show_progress=show_progress)
    context = model_context(model_path)
    limit = config.rollout.max_context_tokens or context
    if limit > context:
        raise ConfigError(
            f"rollout.max_context_tokens {limit} is above the model's own limit of {context} ({model_path})"
        )
    if config.sampling.max_new_tokens >= limit:
        raise ConfigError(
            f"sampling.max_new_tokens {config.sampling.max_new_tokens} leaves no room for a prompt in a context of "
            f"{limit} tokens ({model_path}); lower it"
        )
    name = config.model.name_or_path
    return RunInputs(
        model_path=model_path,
        hub_model=f"{name}@{model_path.name}" if name != EMBEDDED and is_hub_model(name) else None,
        train=train,
        heldout=heldout,
        context_tokens=limit,
    )


def require_vllm() -> None:
    """Refuse to start without a generation engine.

    Raises:
        EnvironmentProblem: vLLM is not installed.
    """
    if importlib.util.find_spec("vllm") is None:
        raise EnvironmentProblem(
            'vLLM is not installed; install it with pip install "bolt-ray[cpu]", or "bolt-ray[gpu]" on a machine '
            "with a GPU (or make setup)"
        )


def require_training_packages(config: RunConfig) -> None:
    """Refuse to start without what training needs.

    Raises:
        EnvironmentProblem: vLLM, DeepSpeed or the attention asked for is not installed.
    """
    require_vllm()
    if config.model.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise EnvironmentProblem(
            "model.attention flash_attention_2 needs the package flash-attn; use model.attention sdpa"
        )
    if importlib.util.find_spec("deepspeed") is None:
        train = config.train
        asked = [f"train.zero_stage {train.zero_stage}"]
        asked += [f"train.{name}" for name in ("offload_optimizer", "offload_parameters") if getattr(train, name)]
        raise EnvironmentProblem(
            f"DeepSpeed is not installed, and {', '.join(asked)} needs it; install it with pip install "
            '"bolt-ray[cpu]", or "bolt-ray[gpu]" on a machine with a GPU (or make setup)'
        )


def check_inputs(config: RunConfig, *, download: bool = True, elsewhere: bool = False) -> None:
    """Whether the model directory, the dataset files and all secrets are there; makes nothing.

    Args:
        download: a model of the Hugging Face hub is fetched where it is not in the cache; False leaves it unchecked.
        elsewhere: the run will be on other machines: what is named by a whole path may be there only.

    Raises:
        ModelError, DataError, ConfigError: one is missing.
    """
    for key in left_out(config.model_dump(mode="json")):
        raise ConfigError(f"{key}: its secret was left out of this file ('{MASK}'), as out of a run's; put it in again")
    for dataset in (*config.datasets, *config.eval.datasets):
        if is_made(dataset):
            check_made(dataset)
        elif not is_hub_dataset(dataset) and not (elsewhere and _is_whole_path(dataset.name)):
            find_files(dataset)
    name = config.model.name_or_path
    if elsewhere and _is_whole_path(name):
        return
    if name != EMBEDDED and (download or not is_hub_model(name)):
        model_context(_model_path(config, say=lambda text: None, show_progress=False))


def _is_whole_path(name: str) -> bool:
    return name.startswith(("/", "~")) or is_uri(name)


def model_context(model_path: Path) -> int:
    """The longest sequence a model takes, from its ``config.json``.

    Raises:
        ModelError: there is no such directory, or its ``config.json`` cannot be read.
    """
    file = model_path / "config.json"
    if not model_path.is_dir():
        raise ModelError(
            f"model.name_or_path: there is no model directory {model_path}; give a Hugging Face model directory, or "
            f"'{EMBEDDED}' for the embedded model; 'bolt-ray pretrain CONFIG' makes a tiny one there from its datasets"
        )
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{model_path}: not a Hugging Face model directory, config.json is missing") from None
    except ValueError as error:
        raise ModelError(f"{file}: not valid JSON ({error})") from None
    text = tree.get("text_config", tree)
    return int(text.get("max_position_embeddings", 4096))


def _model_path(config: RunConfig, *, say: Callable[[str], None], show_progress: bool) -> Path:
    name = config.model.name_or_path
    if name == EMBEDDED:
        from bolt_ray.commands.pretrain.embedded import ensure_embedded_model

        return ensure_embedded_model(config.arithmetic, say=say, show_progress=show_progress)
    if is_hub_model(name):
        return hub_snapshot(name, config.model.revision)
    return Path(name).expanduser().absolute()


def described_model(config: RunConfig) -> Path | None:
    """A directory with the model's configuration and tokenizer, of a hub model without its weights.

    Returns:
        None for the embedded model before it is made, and for a hub model that cannot be reached.
    """
    name = config.model.name_or_path
    if name == EMBEDDED:
        from bolt_ray.tasks.arithmetic.pretrain import default_model_dir

        made = default_model_dir(config.arithmetic, cache_dir=config.arithmetic.cache)
        return made if made.is_dir() else None
    if not is_hub_model(name):
        return Path(name).expanduser().absolute()
    try:
        return hub_snapshot(name, config.model.revision, only=("*.json", "*.jinja", "*.model", "*.txt"))
    except ModelError:
        return None


def is_hub_model(name: str) -> bool:
    """Whether it is no directory here, and looks like ``owner/model``."""
    looks = name.count("/") == 1 and not name.startswith((".", "/", "~"))
    return looks and not Path(name).is_dir()
