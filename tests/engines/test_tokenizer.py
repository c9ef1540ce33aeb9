from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bolt_ray.core.errors import ModelError
from bolt_ray.core.records import Prompt
from bolt_ray.engines.tokenizer import PromptTokenizer, encode_prompt, encode_prompts, load_tokenizer

LETTERS = "abcdefgh :>\n"
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}"
    "{% endif %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}{{ 'b' if brief else 'a' }}:{% endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A character tokenizer that puts <s> first: "<s>" is 0, "<" 1, "a" 2, "b" 3, …"""
    vocabulary = {token: number for number, token in enumerate(["<s>", "<", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    path = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<s>")
    fast.save_pretrained(path / "plain")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(path / "chat")
    return path


def test_text_gets_the_special_tokens_of_the_tokenizer(directory: Path) -> None:
    tokenizer = load_tokenizer(str(directory / "plain"), trust_remote_code=False)
    ids = encode_prompt(tokenizer, "abc")
    assert ids.dtype == np.int32
    assert ids.tolist() == [0, 2, 3, 4]


def test_messages_go_through_the_chat_template_alone(directory: Path) -> None:
    tokenizer = load_tokenizer(str(directory / "chat"), trust_remote_code=False)
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "c"}]
    assert encode_prompt(tokenizer, messages).tolist() == [1, 2, 12, 1, 4, 12, 2, 11]
    assert encode_prompt(tokenizer, messages, template_options={"brief": True}).tolist()[-2:] == [3, 11]


def test_many_at_once_keep_their_places(directory: Path) -> None:
    tokenizer = load_tokenizer(str(directory / "chat"), trust_remote_code=False)
    many = ["a", [{"role": "user", "content": "b"}], "ab", ""]
    assert [ids.tolist() for ids in encode_prompts(tokenizer, many)] == [[0, 2], [1, 3, 12, 2, 11], [0, 2, 3], [0]]
    assert encode_prompts(tokenizer, []) == []


def test_messages_without_a_chat_template(directory: Path) -> None:
    tokenizer = load_tokenizer(str(directory / "plain"), trust_remote_code=False)
    with pytest.raises(ModelError, match="no chat template; use an instruction-tuned model"):
        encode_prompt(tokenizer, [{"role": "user", "content": "a"}])


def test_messages_the_template_refuses(directory: Path) -> None:
    tokenizer = load_tokenizer(str(directory / "chat"), trust_remote_code=False)
    with pytest.raises(ModelError, match=r"refuses messages with the roles \['user', 'system'\]: system first"):
        encode_prompt(tokenizer, [{"role": "user", "content": "a"}, {"role": "system", "content": "a"}])


def test_what_is_no_model_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model directory at /nowhere"):
        load_tokenizer("/nowhere", trust_remote_code=False)
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        load_tokenizer(str(tmp_path), trust_remote_code=False)


def test_the_prompt_tokenizer_pickles(directory: Path) -> None:
    tokenize = pickle.loads(pickle.dumps(PromptTokenizer(path=str(directory / "plain"), trust_remote_code=False)))  # noqa: S301
    prompts = [Prompt(row=0, key="k", prompt="ab"), Prompt(row=1, key="l", prompt="c")]
    assert [ids.tolist() for ids in tokenize(prompts)] == [[0, 2, 3], [0, 4]]
