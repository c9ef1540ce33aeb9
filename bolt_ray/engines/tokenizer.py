"""Loads the tokenizer; prompts to token ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.errors import ModelError
from bolt_ray.core.records import Messages, Prompt
from bolt_ray.core.settings import nearest_hint
from bolt_ray.engines.model_directory import model_directory
from bolt_ray.engines.settings import ModelSettings

_OPEN_TAGS = re.compile(r"(?:<[A-Za-z][\w.\-]*>\s*)+\Z")
_TAIL_TOKENS = 32
"""Tokens at the end of a prompt that are looked at for tags it leaves open."""


@lru_cache(maxsize=4)
def load_tokenizer(path: str, *, trust_remote_code: bool) -> Any:
    """The tokenizer of a Hugging Face model directory (or name, see `model_directory`), loaded once per process.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    from transformers import AutoTokenizer

    if path.startswith(("/", ".", "~")) or "@" in path:
        path = str(model_directory(path))
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"cannot load the tokenizer of {path}: {error}") from error


def special_tokens(tokenizer: Any) -> dict[str, int]:
    """Text and id of the tokens that are left out of decoded text."""
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)) | added


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTokenizer:
    """Prompts to token ids, in any process: carries the path and the settings, not the tokenizer.

    Attributes:
        path: model directory or Hugging Face name.
        trust_remote_code: run Python code shipped with the model.
        chat_template: text of a template in place of the model's own.
        template_file: where that text stands, for messages.
        template_options: more arguments of the chat template, e.g. ``{"enable_thinking": False}``.
        prefill: how every answer begins: put behind each prompt, chat or text.
    """

    path: str
    trust_remote_code: bool
    chat_template: str | None = None
    template_file: str | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)
    prefill: str = ""

    @classmethod
    def of(cls, path: str, settings: ModelSettings) -> PromptTokenizer:
        """What ``model:`` says of prompts, with the template read from its file: other machines need not have it.

        Raises:
            ModelError: the template file cannot be read.
        """
        file = settings.chat_template
        try:
            template = None if file is None else Path(file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ModelError(f"model.chat_template: {file} cannot be read: {reason}") from None
        return cls(
            path=path,
            trust_remote_code=settings.trust_remote_code,
            chat_template=template,
            template_file=file,
            template_options=settings.chat_template_kwargs,
            prefill=settings.prefill,
        )

    @property
    def tokenizer(self) -> Any:
        """The tokenizer itself.

        Raises:
            ModelError: see :func:`load_tokenizer`.
        """
        return load_tokenizer(self.path, trust_remote_code=self.trust_remote_code)

    def __call__(self, prompts: Sequence[Prompt]) -> list[NDArray[np.int32]]:
        """int32 [P_i] for each prompt.

        Raises:
            ModelError: see :func:`load_tokenizer` and :meth:`encode`.
        """
        return self.encode([prompt.prompt for prompt in prompts])

    def encode(self, prompts: Sequence[str | Messages]) -> list[NDArray[np.int32]]:
        """Token ids of each prompt, int32 [P_i]; fast tokenizers encode many in one call.

        Text gets the tokenizer's own special tokens (its default). Chat messages go through the chat template with
        the generation prompt, which brings its own special tokens.

        Raises:
            ModelError: chat messages, and there is no chat template or it refuses them.
        """
        encoded: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * len(prompts)
        texts = [place for place, prompt in enumerate(prompts) if isinstance(prompt, str)]
        chats = [place for place, prompt in enumerate(prompts) if not isinstance(prompt, str)]
        for places, own_special_tokens in ((texts, True), (chats, False)):
            if places:
                rendered = [self.render(prompts[place]) for place in places]
                ids = self.tokenizer(rendered, add_special_tokens=own_special_tokens).input_ids
                for place, token_ids in zip(places, ids, strict=True):
                    encoded[place] = np.asarray(token_ids, dtype=np.int32)
        return encoded

    def render(self, prompt: str | Messages) -> str:
        """The text that the model continues, without what the tokenizer adds."""
        if isinstance(prompt, str):
            return prompt + self.prefill
        from jinja2.exceptions import TemplateError, TemplateSyntaxError

        try:
            text: str = self.tokenizer.apply_chat_template(
                prompt,
                chat_template=self._template(),
                tokenize=False,
                add_generation_prompt=True,
                **self.template_options,
            )
        except TemplateSyntaxError as error:
            raise ModelError(f"{self._template_name}, line {error.lineno}: {error.message}") from error
        except TemplateError as error:
            roles = [message["role"] for message in prompt if isinstance(message, dict)]
            raise ModelError(f"{self._template_name} refuses messages with the roles {roles}: {error}") from error
        return text + self.prefill

    def check_template(self) -> None:
        """Whether the chat template can be used and knows all of ``template_options``.

        Raises:
            ModelError: it cannot be compiled (says the line), or an option is not in it.
        """
        if not self.has_template:
            if self.template_options:
                raise ModelError(f"model.chat_template_kwargs: the tokenizer of {self.path} has no chat template")
            return
        from jinja2.exceptions import TemplateSyntaxError

        try:
            self.render([{"role": "user", "content": "Hello"}])
        except ModelError as error:
            # What it demands of messages is for the data's own to show.
            if isinstance(error.__cause__, TemplateSyntaxError):
                raise
        template = self._template()
        for name in self.template_options:
            if name not in template:
                near = nearest_hint(name, set(re.findall(r"[A-Za-z_]\w+", template)))
                raise ModelError(f"model.chat_template_kwargs.{name}: {self._template_name} does not use it{near}")

    @property
    def has_template(self) -> bool:
        """Whether chat messages can be prompts."""
        return self.chat_template is not None or getattr(self.tokenizer, "chat_template", None) is not None

    def opened(self, token_ids: NDArray[np.int32]) -> str:
        """What of the answer stands in the prompt ``token_ids``, int32 [P]: tags at its end that are open, such as the
        ``<think>`` of the templates of reasoning models, and the prefill.
        """
        tail = self.tokenizer.decode(token_ids[-(_TAIL_TOKENS + len(self.prefill)) :], skip_special_tokens=True)
        if not tail.endswith(self.prefill):
            return self.prefill
        tags = _OPEN_TAGS.search(tail.removesuffix(self.prefill))
        return (tags.group() if tags else "") + self.prefill

    def doubts(self, prompts: Sequence[Prompt]) -> list[str]:
        """What looks wrong with the first prompts of the datasets, one sentence each; empty if nothing does.

        Raises:
            ModelError: they cannot be encoded.
        """
        tokenizer, found = self.tokenizer, []
        # Text with special tokens of its own has been through a template already.
        markers = set(special_tokens(tokenizer).values()) - {tokenizer.bos_token_id, tokenizer.unk_token_id}
        plain, doubled = [], []
        for prompt, token_ids in zip(prompts, self(prompts), strict=True):
            ids = token_ids.tolist()
            if ids[:2] == [tokenizer.bos_token_id] * 2:
                doubled.append(prompt.source)
            elif isinstance(prompt.prompt, str) and markers.isdisjoint(ids):
                plain.append(prompt.source)
        if plain and self.has_template:
            found.append(
                f"the prompts of {_listed(plain)} are plain text and the model has a chat template; an "
                "instruction-tuned model may never end its answers then: set datasets[].chat: true, unless plain text "
                "is meant"
            )
        if doubled:
            found.append(
                f"the prompts of {_listed(doubled)} begin with {tokenizer.bos_token} twice: once from their own text "
                "or the chat template, once more from the tokenizer or the messages; leave it out of the data"
            )
        return found

    def _template(self) -> str:
        if not self.has_template:
            raise ModelError(
                f"the prompts are chat messages and the tokenizer of {self.path} has no chat template; use an "
                "instruction-tuned model, model.chat_template, or text prompts (datasets: chat: false)"
            )
        try:
            template: str = self.tokenizer.get_chat_template(self.chat_template)
        except ValueError as error:
            raise ModelError(f"{self._template_name}: {error}") from error
        return template

    @property
    def _template_name(self) -> str:
        return f"the chat template of {self.path}" if self.template_file is None else self.template_file


def _listed(names: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(names))
