"""What the model's tokenizer has to say of a configuration, before anything is started."""

from __future__ import annotations

from pathlib import Path

from bolt_ray.config.schema import RunConfig
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
