"""What ends a completion, checked against the model's tokenizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bolt_ray.core.errors import ConfigError
from bolt_ray.core.settings import nearest_hint
from bolt_ray.engines.settings import SamplingSettings
from bolt_ray.engines.tokenizer import special_tokens


def definite_stops(sampling: SamplingSettings, tokenizer: Any) -> SamplingSettings:
    """The settings with ``stop_token_ids`` as ids; applied again it changes nothing.

    Raises:
        ConfigError: one is no token, or a text of ``stop`` has a special token in it, which generated text never has.
    """
    special = special_tokens(tokenizer)
    for text in sampling.stop:
        within = next((token for token in special if token in text), None)
        if within is not None:
            raise ConfigError(
                f"sampling.stop: {text!r} never ends a completion: {within} is a special token, and those are left out "
                f"of generated text; set sampling.stop_token_ids: [{within!r}]"
            )
    ids = tuple(_token_id(token, tokenizer, special) for token in sampling.stop_token_ids)
    return replace(sampling, stop_token_ids=ids)


def _token_id(token: int | str, tokenizer: Any, special: dict[str, int]) -> int:
    if isinstance(token, int):
        if not 0 <= token < len(tokenizer):
            raise ConfigError(
                f"sampling.stop_token_ids: {token} is no token of {tokenizer.name_or_path}; its ids are 0 to "
                f"{len(tokenizer) - 1}"
            )
        return token
    if token in special:
        return special[token]
    ids = tokenizer(token, add_special_tokens=False).input_ids
    if len(ids) == 1 and ids[0] != tokenizer.unk_token_id:
        return int(ids[0])
    hint = nearest_hint(token, special) or "; a text that ends completions goes into sampling.stop"
    raise ConfigError(f"sampling.stop_token_ids: {token!r} is not one token of {tokenizer.name_or_path}{hint}")
