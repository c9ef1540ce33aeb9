from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bolt_ray.core.errors import ConfigError, ModelError
from bolt_ray.core.records import Messages, Prompt
from bolt_ray.engines.settings import ModelSettings, SamplingSettings
from bolt_ray.engines.stop_tokens import definite_stops
from bolt_ray.engines.tokenizer import PromptTokenizer, load_tokenizer

LETTERS = "abcdefgh :>\n"
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('system first') }}"
    "{% endif %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}{{ 'b' if brief else 'a' }}:{% endif %}"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A character tokenizer that puts <s> first: "<s>" is 0, "<" 1, "a" 2, "b" 3, …, ">" 12; "<e>", 14, ends."""
    vocabulary = {token: number for number, token in enumerate(["<s>", "<", *LETTERS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    path = tmp_path_factory.mktemp("tokenizer")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<s>")
    fast.add_special_tokens({"eos_token": "<e>"})
    fast.save_pretrained(path / "plain")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(path / "chat")
    return path


@pytest.fixture
def plain(directory: Path) -> PromptTokenizer:
    return PromptTokenizer(path=str(directory / "plain"), trust_remote_code=False)


@pytest.fixture
def chat(directory: Path) -> PromptTokenizer:
    return PromptTokenizer(path=str(directory / "chat"), trust_remote_code=False)


def ask(content: str, role: str = "user") -> Messages:
    return [{"role": role, "content": content}]


def ids_of(tokenize: PromptTokenizer, prompt: str | Messages) -> list[int]:
    (ids,) = tokenize.encode([prompt])
    assert ids.dtype == np.int32
    return ids.tolist()


def prompts_of(*prompts: str | Messages) -> list[Prompt]:
    return [Prompt(row=row, key=str(row), prompt=prompt, source="rows") for row, prompt in enumerate(prompts)]


def test_text_gets_the_special_tokens_of_the_tokenizer(plain: PromptTokenizer) -> None:
    assert ids_of(plain, "abc") == [0, 2, 3, 4]


def test_messages_go_through_the_chat_template_alone(chat: PromptTokenizer) -> None:
    messages = [*ask("a", role="system"), *ask("c")]
    assert ids_of(chat, messages) == [1, 2, 12, 1, 4, 12, 2, 11]
    assert ids_of(replace(chat, template_options={"brief": True}), messages)[-2:] == [3, 11]


def test_many_at_once_keep_their_places(chat: PromptTokenizer) -> None:
    many = ["a", ask("b"), "ab", ""]
    assert [ids.tolist() for ids in chat.encode(many)] == [[0, 2], [1, 3, 12, 2, 11], [0, 2, 3], [0]]
    assert chat.encode([]) == []


def test_a_prefill_follows_every_prompt(chat: PromptTokenizer) -> None:
    filled = replace(chat, prefill="cd")
    assert ids_of(filled, "a") == [0, 2, 4, 5]
    assert ids_of(filled, ask("b")) == [1, 3, 12, 2, 11, 4, 5]


def test_a_template_file_takes_the_place_of_the_models_own(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}{% endfor %}{{ tail }}")
    settings = ModelSettings(chat_template=str(file), chat_template_kwargs={"tail": "d"}, prefill="h")
    for name in ("plain", "chat"):
        tokenize = PromptTokenizer.of(str(directory / name), settings)
        tokenize.check_template()
        file_gone = pickle.loads(pickle.dumps(tokenize))  # noqa: S301
        assert ids_of(file_gone, ask("ab")) == [2, 3, 5, 9]


def test_a_template_file_that_cannot_be_used_is_named(directory: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    settings = ModelSettings(chat_template=str(file))
    with pytest.raises(ModelError, match=r"model\.chat_template: .*mine\.jinja cannot be read: No such file"):
        PromptTokenizer.of(str(directory / "plain"), settings)
    file.write_text("{{ messages }}\n{% for m in messages %}{{ m.content }}")
    with pytest.raises(ModelError, match=r"mine\.jinja, line 2: "):
        PromptTokenizer.of(str(directory / "plain"), settings).check_template()
    file.write_text("{{ raise_exception('a system message is needed') }}")
    PromptTokenizer.of(str(directory / "plain"), settings).check_template()


def test_options_that_the_template_does_not_use(chat: PromptTokenizer, plain: PromptTokenizer) -> None:
    replace(chat, template_options={"brief": True}).check_template()
    with pytest.raises(ModelError, match=r"chat_template_kwargs\.brif: the chat template .* did you mean 'brief'\?"):
        replace(chat, template_options={"brif": True}).check_template()
    with pytest.raises(ModelError, match=r"chat_template_kwargs: the tokenizer of .*plain has no chat template"):
        replace(plain, template_options={"brief": True}).check_template()
    with pytest.raises(ValueError, match="add_generation_prompt is not the template's"):
        ModelSettings(chat_template_kwargs={"add_generation_prompt": False})


def test_messages_without_a_chat_template(plain: PromptTokenizer) -> None:
    plain.check_template()
    with pytest.raises(ModelError, match="no chat template; use an instruction-tuned model"):
        plain.encode([ask("a")])


def test_messages_the_template_refuses(chat: PromptTokenizer) -> None:
    with pytest.raises(ModelError, match=r"refuses messages with the roles \['user', 'system'\]: system first"):
        chat.encode([[*ask("a"), *ask("a", role="system")]])


def test_what_is_no_model_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no directory /nowhere on the node"):
        load_tokenizer("/nowhere", trust_remote_code=False)
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        load_tokenizer(str(tmp_path), trust_remote_code=False)


def test_the_prompt_tokenizer_pickles(plain: PromptTokenizer) -> None:
    tokenize = pickle.loads(pickle.dumps(plain))  # noqa: S301
    assert [ids.tolist() for ids in tokenize(prompts_of("ab", "c"))] == [[0, 2, 3], [0, 4]]


@pytest.mark.parametrize(
    ("text", "prefill", "opened"),
    [
        ("abc", "", ""),
        ("abc:<bed>\n", "", "<bed>\n"),
        ("<a><bed> ", "", "<a><bed> "),
        ("<a>b", "", ""),
        ("abc", "<bed>\n", "<bed>\n"),
        ("abc<a>", "deaf <bed>", "<a>deaf <bed>"),
    ],
)
def test_what_the_prompt_opened_of_the_answer(plain: PromptTokenizer, text: str, prefill: str, opened: str) -> None:
    tokenize = replace(plain, prefill=prefill)
    (ids,) = tokenize.encode([text])
    assert tokenize.opened(ids) == opened


def test_text_for_a_chat_model_is_told(chat: PromptTokenizer, plain: PromptTokenizer) -> None:
    (told,) = chat.doubts(prompts_of("ab", ask("b")))
    assert told.startswith("the prompts of rows are plain text and the model has a chat template")
    assert "set datasets[].chat: true" in told
    assert plain.doubts(prompts_of("ab")) == []
    assert chat.doubts(prompts_of(ask("ab"))) == []
    with pytest.raises(ModelError, match="no chat template"):
        plain.doubts(prompts_of(ask("ab")))


def test_text_that_has_been_through_a_template_is_no_doubt(chat: PromptTokenizer) -> None:
    assert chat.doubts(prompts_of("a<e>b")) == []


def test_a_doubled_first_token_is_told(chat: PromptTokenizer, plain: PromptTokenizer) -> None:
    for tokenize, prompt in ((plain, "<s>ab"), (chat, "<s>ab")):
        (told,) = tokenize.doubts(prompts_of(prompt))
        assert told.startswith("the prompts of rows begin with <s> twice")
    doubling = replace(chat, chat_template="{{ bos_token }}{{ messages[0].content }}")
    assert doubling.doubts(prompts_of(ask("ab"))) == []
    (told,) = doubling.doubts(prompts_of(ask("<s>ab")))
    assert "twice" in told


@pytest.mark.parametrize("given", [(), (4,), ("b",), ("<e>",), ("<e>", 4, "b")])
def test_stop_tokens_by_id_or_text(plain: PromptTokenizer, given: tuple[int | str, ...]) -> None:
    ids = {"b": 3, "<e>": 14}
    wanted = tuple(ids.get(token, token) for token in given)  # type: ignore[call-overload]
    found = definite_stops(SamplingSettings(stop_token_ids=given), plain.tokenizer)
    assert found == SamplingSettings(stop_token_ids=wanted)
    assert definite_stops(found, plain.tokenizer) == found


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("ab", "'ab' is not one token of .*; a text that ends completions goes into sampling.stop"),
        ("z", "'z' is not one token"),
        ("<e", r"'<e' is not one token of .*; did you mean '<e>'\?"),
        (99, "99 is no token of .*plain; its ids are 0 to 14"),
        (-1, "-1 is no token"),
    ],
)
def test_what_is_no_stop_token(plain: PromptTokenizer, token: int | str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"sampling.stop_token_ids: {message}"):
        definite_stops(SamplingSettings(stop_token_ids=(token,)), plain.tokenizer)


@pytest.mark.parametrize("stop", ["<e>", "<e>\n", "a<s>"])
def test_a_stop_text_that_generated_text_never_has(plain: PromptTokenizer, stop: str) -> None:
    token = "<s>" if "<s>" in stop else "<e>"
    with pytest.raises(ConfigError, match=rf"never ends a completion: .* set sampling.stop_token_ids: \['{token}'\]"):
        definite_stops(SamplingSettings(stop=("a", stop)), plain.tokenizer)
    definite_stops(SamplingSettings(stop=("a", ">\n")), plain.tokenizer)
