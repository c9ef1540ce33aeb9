"""What the model's tokenizer has to say of a configuration, before anything is started."""

from __future__ import annotations

from pathlib import Path

from bolt_ray.commands.shared.inputs import EMBEDDED
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.records import Prompt
from bolt_ray.data.ingest.locate import is_hub_dataset
from bolt_ray.data.ingest.preview import first_prompts
from bolt_ray.engines.stop_tokens import definite_stops
from bolt_ray.engines.tokenizer import PromptTokenizer


def fit_to_tokenizer(config: RunConfig, model_path: Path) -> RunConfig:
    """The configuration with its stop tokens as ids; applied again it changes nothing.

    Raises:
        ModelError: there is no tokenizer in ``model_path``, or its chat template, or that of the settings, is unusable.
        ConfigError: a stop token or text that this tokenizer cannot stop at.
    """
    prompts = PromptTokenizer.of(str(model_path), config.model)
    prompts.check_template()
    return config.model_copy(update={"sampling": definite_stops(config.sampling, prompts.tokenizer)})


def doubts_of(config: RunConfig) -> list[str]:
    """What looks wrong with the first prompts, and whether the tokenizer can do what is set; for a model directory.

    Raises:
        ModelError, ConfigError, DataError: see `fit_to_tokenizer`, `PromptTokenizer.doubts` and `first_prompts`.
    """
    model_path = Path(config.model.name_or_path).expanduser()
    prompts = PromptTokenizer.of(str(model_path), config.model)
    if config.model.name_or_path == EMBEDDED or not model_path.is_dir():
        return []
    fit_to_tokenizer(config, model_path)
    first: list[Prompt] = []
    for datasets in (config.datasets, config.eval.datasets):
        files = [dataset for dataset in datasets if dataset.name != EMBEDDED and not is_hub_dataset(dataset)]
        first += first_prompts(files, max_prompt_chars=config.data.max_prompt_chars)
    return prompts.doubts(first)
