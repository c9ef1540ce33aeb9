"""The ``reward_model`` reward: a sequence-classification model of Transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bolt_ray.rewards.protocol import RewardInput

Output = Literal["score", "sigmoid", "probability"]


class RewardModelReward:
    """One output of the model for prompt and completion, read as a chat where the tokenizer has a template.

    Args:
        model: directory or name.
        output: ``score``: the logit of ``label``; ``sigmoid`` of it; ``probability``: its softmax.
        label: index of the output.
        batch_size: completions in a forward pass.
        max_tokens: longer texts lose their beginning.
        device: ``auto``: a GPU if there is one.
        dtype: of the weights.

    Raises:
        ValueError: the model has no output ``label``.
    """

    batched = True

    def __init__(
        self,
        *,
        model: str,
        output: Output = "score",
        label: int = 0,
        batch_size: int = 8,
        max_tokens: int = 2048,
        device: Literal["auto", "cpu", "cuda"] = "auto",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    ) -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = torch.device(device)
        self._tokenizer = AutoTokenizer.from_pretrained(model)
        self._tokenizer.truncation_side = "left"
        self._model = AutoModelForSequenceClassification.from_pretrained(model, dtype=getattr(torch, dtype))
        self._model.to(self._device).eval()
        if label >= self._model.config.num_labels:
            raise ValueError(f"{model} has {self._model.config.num_labels} outputs, `label` {label} is not among them")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if self._model.config.pad_token_id is None:
            self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._output = output
        self._label = label
        self._batch_size = batch_size
        self._max_tokens = max_tokens

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

    @torch.inference_mode()
    def _forward(self, texts: Sequence[str]) -> list[float]:
        batch = self._tokenizer(
            list(texts),
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            add_special_tokens=self._tokenizer.chat_template is None,
        )
        logits = self._model(**batch.to(self._device)).logits.float()
        if self._output == "probability":
            values = torch.softmax(logits, dim=-1)[:, self._label]
        else:
            values = logits[:, self._label]
            values = torch.sigmoid(values) if self._output == "sigmoid" else values
        return [float(value) for value in values]

    def _text(self, item: RewardInput) -> str:
        messages = [{"role": "user", "content": item.prompt}] if isinstance(item.prompt, str) else list(item.prompt)
        if self._tokenizer.chat_template is None:
            prompt = "\n".join(message["content"] for message in messages)
            return f"{prompt}\n{item.completion}"
        messages.append({"role": "assistant", "content": item.completion})
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))
