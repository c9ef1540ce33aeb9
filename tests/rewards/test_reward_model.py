"""A reward model of a few weights, made here and loaded as any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.rewards import make_reward, reward_spec

from bolt_ray.rewards.process.isolation import RewardProcess
from bolt_ray.rewards.protocol import RewardInput

pytestmark = pytest.mark.slow
WORDS = ["<pad>", "</s>", "<unk>", "two", "plus", "is", "four", "five", "user", "assistant"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("reward_model")
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_labels=2,
        pad_token_id=0,
    )
    LlamaForSequenceClassification(config).save_pretrained(path)
    return path


def inputs() -> list[RewardInput]:
    completions = ["is four", "is five five five five", "four", "two plus two is four"]
    return [RewardInput(prompt="two plus two", completion=text) for text in completions]


def expected(model: Path, text: str) -> torch.Tensor:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(model)(text, return_tensors="pt")
    with torch.inference_mode():
        return AutoModelForSequenceClassification.from_pretrained(model)(**tokens).logits[0]


def test_batches_give_what_single_texts_give(model: Path) -> None:
    logits = [expected(model, f"two plus two\n{item.completion}") for item in inputs()]
    score = make_reward("reward_model", model=str(model), output="score", label=1, batch_size=3).score(inputs())
    assert score == pytest.approx([float(row[1]) for row in logits], abs=1e-5)
    sigmoid = make_reward("reward_model", model=str(model)).score(inputs())
    assert sigmoid == pytest.approx([float(torch.sigmoid(row[0])) for row in logits], abs=1e-5)
    share = make_reward("reward_model", model=str(model), output="probability", label=1).score(inputs())
    assert share == pytest.approx([float(torch.softmax(row, 0)[1]) for row in logits], abs=1e-5)
    assert make_reward("reward_model", model=str(model)).score([]) == []


def test_a_chat_template_is_used_where_there_is_one(model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role + ' ' + m.content + ' ' }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    (score,) = make_reward("reward_model", model=str(tmp_path), output="score").score(inputs()[:1])
    assert score == pytest.approx(float(expected(model, "user two plus two assistant is four")[0]), abs=1e-5)


def test_a_label_the_model_does_not_have(model: Path) -> None:
    with pytest.raises(ValueError, match="has 2 outputs, `label` 2"):
        make_reward("reward_model", model=str(model), label=2)


def test_it_works_in_its_process(model: Path) -> None:
    spec = reward_spec(
        name="rm", type="reward_model", timeout_s=120, memory_mb=16384, options={"model": str(model), "batch_size": 2}
    )
    process = RewardProcess(rewards=[spec], startup_timeout_s=300)
    try:
        here = make_reward("reward_model", model=str(model))
        assert process.score(0, inputs()) == pytest.approx(here.score(inputs()))
    finally:
        process.close()
