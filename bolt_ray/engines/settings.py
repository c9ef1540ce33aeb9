"""Settings that learner and generators share: the model (``model:``) and how it is sampled (``sampling:``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bolt_ray.core.settings import SettingError, Settings, setting

Dtype = Literal["auto", "float32", "bfloat16"]

NOT_OF_THE_TEMPLATE = (
    "conversation",
    "chat_template",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
)
"""Arguments of Transformers' ``apply_chat_template`` itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings(Settings):
    """``model:`` - a Hugging Face model directory, or the embedded tiny model.

    A LoRA adapter (arXiv 2106.09685) adds (alpha / r)·BA to the named linear layers, without dropout: the learner's
    log-probs must be those of the policy that generated.
    """

    name_or_path: str = setting(
        "arithmetic", "a Hugging Face model directory or name, or 'arithmetic' for the embedded model"
    )
    revision: str | None = setting(
        None, "of a model on the Hugging Face hub: a commit, tag or branch; a run keeps to the commit it began with"
    )
    trust_remote_code: bool = setting(False, "run Python code shipped inside the model directory")
    dtype: Dtype = setting(
        "auto",
        "arithmetic of the model in learner and generators; auto: bfloat16 with GPUs, float32 on CPUs. Master weights, "
        "optimizer state and gradient accumulation are float32 either way",
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = setting(
        "sdpa", "attention of the learner; flash_attention_2 needs the package flash-attn"
    )
    gradient_checkpointing: bool = setting(False, "recompute activations in the backward pass: less memory, slower")
    use_peft: bool = setting(False, "train a LoRA adapter instead of all weights")
    lora_r: int = setting(16, "rank of the adapter", ge=1)
    lora_alpha: float = setting(32.0, "alpha of the adapter; its output is scaled by lora_alpha / lora_r", gt=0)
    lora_target_modules: tuple[str, ...] | Literal["all-linear"] = setting(
        "all-linear", "names of the linear layers with an adapter, or all-linear: all but the output layer"
    )
    chat_template: str | None = setting(
        None, "file with a Jinja chat template, looked for beside the config; default: the model's own"
    )
    chat_template_kwargs: dict[str, Any] = setting(
        {}, "what the chat template is given besides the messages, e.g. {enable_thinking: false}"
    )
    prefill: str = setting(
        "", "text every answer begins with, e.g. '<think>\\n': put behind each prompt, not part of the completion"
    )

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        for name in self.chat_template_kwargs:
            if name in NOT_OF_THE_TEMPLATE:
                raise SettingError("chat_template_kwargs", f"{name} is not the template's: leave it out")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings(Settings):
    """``sampling:`` - how completions are drawn; each from its request's own seed, whatever else is in the batch."""

    temperature: float = setting(1.0, "0: always the most likely token", ge=0)
    top_p: float = setting(1.0, "draw from the smallest set of tokens with this much probability", gt=0, le=1)
    top_k: int = setting(0, "draw from the k most likely tokens; 0: all", ge=0)
    min_p: float = setting(0.0, "leave out tokens below this share of the most likely one's probability", ge=0, lt=1)
    max_new_tokens: int = setting(512, "length limit of a completion", unit="tokens", ge=1)
    stop: tuple[str, ...] = setting((), "texts that end a completion; for special tokens see stop_token_ids")
    stop_token_ids: tuple[int | str, ...] = setting(
        (), "tokens that end a completion as the end-of-sequence token does, by id or text, e.g. ['<|im_end|>']"
    )
