"""Loads the tokenizer; prompts to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.errors import ModelError
from bolt_ray.core.records import Messages, Prompt


@lru_cache(maxsize=4)
def load_tokenizer(path: str, *, trust_remote_code: bool) -> Any:
    """The tokenizer of a Hugging Face model directory (or name), loaded once per process.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    if path.startswith(("/", ".", "~")) and not Path(path).expanduser().is_dir():
        raise ModelError(f"no model directory at {path}; check model.name_or_path")
    try:
        return AutoTokenizer.from_pretrained(
            str(Path(path).expanduser()) if path.startswith("~") else path,
            trust_remote_code=trust_remote_code,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"cannot load the tokenizer of {path}: {error}") from error


def encode_prompt(
    tokenizer: Any, prompt: str | Messages, *, template_options: Mapping[str, Any] | None = None
) -> NDArray[np.int32]:
    """Token ids of one prompt, int32 [P].

    Text gets the tokenizer's own special tokens (its default). Chat messages go through the tokenizer's chat
    template with the generation prompt, which brings its own special tokens.

    Args:
        template_options: more arguments of the chat template, e.g. ``{"enable_thinking": False}``.

    Raises:
        ModelError: chat messages, and the tokenizer has no chat template or its template refuses them.
    """
    return encode_prompts(tokenizer, [prompt], template_options=template_options)[0]


def encode_prompts(
    tokenizer: Any, prompts: Sequence[str | Messages], *, template_options: Mapping[str, Any] | None = None
) -> list[NDArray[np.int32]]:
    """:func:`encode_prompt` for many prompts, int32 [P_i] each; fast tokenizers encode them in one call."""
    encoded: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * len(prompts)
    texts = [place for place, prompt in enumerate(prompts) if isinstance(prompt, str)]
    chats = [place for place, prompt in enumerate(prompts) if not isinstance(prompt, str)]
    if texts:
        ids = tokenizer([prompts[place] for place in texts]).input_ids
        for place, token_ids in zip(texts, ids, strict=True):
            encoded[place] = np.asarray(token_ids, dtype=np.int32)
    if chats:
        rendered = [_render(tokenizer, prompts[place], template_options or {}) for place in chats]
        # The template has written the special tokens already.
        ids = tokenizer(rendered, add_special_tokens=False).input_ids
        for place, token_ids in zip(chats, ids, strict=True):
            encoded[place] = np.asarray(token_ids, dtype=np.int32)
    return encoded


def _render(tokenizer: Any, messages: str | Messages, options: Mapping[str, Any]) -> str:
    from jinja2.exceptions import TemplateError

    if getattr(tokenizer, "chat_template", None) is None:
        raise ModelError(
            f"the prompts are chat messages and the tokenizer of {tokenizer.name_or_path} has no chat "
            "template; use an instruction-tuned model, or text prompts (datasets: chat: false)"
        )
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
    except TemplateError as error:
        roles = [message["role"] for message in messages if isinstance(message, dict)]
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} refuses messages with the roles {roles}: {error}"
        ) from error
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTokenizer:
    """Prompts to token ids, in any process: carries the path, not the tokenizer.

    Attributes:
        path: model directory or Hugging Face name.
        trust_remote_code: run Python code shipped with the model.
        template_options: more arguments of the chat template.
    """

    path: str
    trust_remote_code: bool
    template_options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, prompts: Sequence[Prompt]) -> list[NDArray[np.int32]]:
        """int32 [P_i] for each prompt.

        Raises:
            ModelError: see :func:`load_tokenizer` and :func:`encode_prompt`.
        """
        tokenizer = load_tokenizer(self.path, trust_remote_code=self.trust_remote_code)
        return encode_prompts(tokenizer, [prompt.prompt for prompt in prompts], template_options=self.template_options)
