"""The ``reward_model`` reward: a sequence-classification model of Transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bolt_ray.core.settings import setting
from bolt_ray.rewards.protocol import RewardInput
from bolt_ray.rewards.settings import RewardSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModelSettings(RewardSettings):
    """``type: reward_model`` - a sequence-classification model of Transformers."""

    model: str = setting(..., "directory or name", min_length=1)
    output: Literal["score", "sigmoid", "probability"] = setting(
        "sigmoid",
        "sigmoid: of the logit of label; probability: its softmax over the outputs; score: the logit as it is, which "
        "has no bounds: set baseline.reward_range to what it usually gives",
    )
    label: int = setting(0, "index of the output", ge=0)
    batch_size: int = setting(8, "completions per forward pass", ge=1)
    max_tokens: int = setting(2048, "prompt and completion beyond this are cut at the front", unit="tokens", ge=8)
    device: Literal["auto", "cpu", "cuda"] = setting("auto", "auto: a GPU if the scorer has one")
    dtype: Literal["float32", "bfloat16", "float16"] = setting("float32", "of the weights")
    memory_mb: int | None = setting(16384, "private memory of its process", unit="MiB", ge=64)
    timeout_s: float | None = setting(120.0, "wall-clock limit of one call", unit="s", gt=0)
    env: tuple[str, ...] | None = setting(("HF_TOKEN",), "environment variables its process gets, by name")

    @property
    def bounds(self) -> tuple[float, float] | None:
        return None if self.output == "score" else (0.0, 1.0)


class RewardModelReward:
    """One output of the model for prompt and completion, read as a chat where the tokenizer has a template.

    Raises:
        ValueError: the model has no output ``label``.
    """

    settings = RewardModelSettings
    batched = True

    def __init__(self, settings: RewardModelSettings) -> None:
        # Here and not above: settings are read where no model is needed.
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._torch = torch
        self._device = torch.device(device)
        self._tokenizer = AutoTokenizer.from_pretrained(settings.model)
        self._tokenizer.truncation_side = "left"
        dtype = getattr(torch, settings.dtype)
        self._model = AutoModelForSequenceClassification.from_pretrained(settings.model, dtype=dtype)
        self._model.to(self._device).eval()
        outputs = self._model.config.num_labels
        if settings.label >= outputs:
            raise ValueError(f"{settings.model} has {outputs} outputs, `label` {settings.label} is not among them")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if self._model.config.pad_token_id is None:
            self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._output = settings.output
        self._label = settings.label
        self._batch_size = settings.batch_size
        self._max_tokens = settings.max_tokens

    def score(self, inputs: Sequence[RewardInput]) -> list[float]:
        texts = [self._text(item) for item in inputs]
        # Texts of similar length together: less padding. The rewards go back to the order of the inputs.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        rewards = [0.0] * len(texts)
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            for i, reward in zip(chosen, self._forward([texts[i] for i in chosen]), strict=True):
                rewards[i] = reward
        return rewards

    def _forward(self, texts: Sequence[str]) -> list[float]:
        batch = self._tokenizer(
            list(texts),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            add_special_tokens=self._tokenizer.chat_template is None,
        )
        with self._torch.inference_mode():
            logits = self._model(**batch.to(self._device)).logits.float()
        if self._output == "probability":
            values = self._torch.softmax(logits, dim=-1)[:, self._label]
        else:
            values = logits[:, self._label]
            values = self._torch.sigmoid(values) if self._output == "sigmoid" else values
        return [float(value) for value in values]

    def _text(self, item: RewardInput) -> str:
        messages = [{"role": "user", "content": item.prompt}] if isinstance(item.prompt, str) else list(item.prompt)
        if self._tokenizer.chat_template is None:
            prompt = "\n".join(message["content"] for message in messages)
            return f"{prompt}\n{item.completion}"
        messages.append({"role": "assistant", "content": item.completion})
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))
