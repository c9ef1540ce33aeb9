from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from bolt_ray.tasks.tiny.model import create_model, save_model
from bolt_ray.tasks.tiny.settings import TinyModelSettings
from bolt_ray.tasks.tiny.tokenizer import VOCABULARY, build_tokenizer

TOKENIZER = build_tokenizer(max_length=64)
# Without "<", out of which the text of a special token could be put together.
PIECES = st.lists(st.sampled_from([token for token in VOCABULARY[3:] if token != "<"]))
KINDS = {
    "untied": TinyModelSettings(),
    "tied": TinyModelSettings(tie_embeddings=True),
    "experts": TinyModelSettings(num_experts=4, active_experts=2),
}


@given(PIECES)
def test_text_comes_back_exactly(pieces: list[str]) -> None:
    text = "".join(pieces)
    ids = TOKENIZER(text)["input_ids"]
    assert len(ids) == len(pieces)
    assert TOKENIZER.decode(ids) == text


def test_answer_tags_are_single_tokens_that_survive_decoding() -> None:
    text = "1 + 2=3<answer>3</answer>"
    ids = TOKENIZER(text)["input_ids"]
    assert len(ids) == 10
    assert TOKENIZER.decode([*ids, TOKENIZER.eos_token_id], skip_special_tokens=True) == text
    assert TOKENIZER.decode([*ids, TOKENIZER.eos_token_id]) == text + "<eos>"
    assert TOKENIZER("")["input_ids"] == []
    assert TOKENIZER.decode(TOKENIZER("1 < 2 <x>")["input_ids"]) == "1 < 2 <x>"
    assert TOKENIZER("é")["input_ids"] == [TOKENIZER.unk_token_id]


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_comes_back(kind: str, tmp_path: Path) -> None:
    model, tokenizer = create_model(KINDS[kind], seed=1)
    save_model(model, tokenizer, tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    loaded_tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    text = "12*(3-5)=3-5=-2;12*-2=-24<answer>-24</answer>\n"
    ids = loaded_tokenizer(text, return_tensors="pt")["input_ids"]
    assert ids.tolist() == tokenizer(text, return_tensors="pt")["input_ids"].tolist()
    assert loaded_tokenizer.decode(ids[0]) == text
    assert loaded_tokenizer.model_max_length == 512
    with torch.inference_mode():
        torch.testing.assert_close(loaded(ids).logits, model.eval()(ids).logits, rtol=0, atol=1e-6)
    head, embedding = loaded.get_output_embeddings().weight, loaded.get_input_embeddings().weight
    assert (head.data_ptr() == embedding.data_ptr()) is (kind == "tied")
    generation = GenerationConfig.from_pretrained(tmp_path)
    assert generation.eos_token_id == tokenizer.eos_token_id == 1
    assert generation.pad_token_id == tokenizer.pad_token_id == 0


def test_sizes_and_seeds() -> None:
    tiny, _ = create_model(TinyModelSettings(), seed=0)
    assert tiny.num_parameters() == 241_056
    assert create_model(TinyModelSettings(tie_embeddings=True), seed=0)[0].num_parameters() == 231_360
    assert create_model(TinyModelSettings(size="small"), seed=0)[0].num_parameters() == 1_662_528
    again, _ = create_model(TinyModelSettings(), seed=0)
    other, _ = create_model(TinyModelSettings(), seed=1)
    assert torch.equal(tiny.get_input_embeddings().weight, again.get_input_embeddings().weight)
    assert not torch.equal(tiny.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_making_a_model_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    create_model(TinyModelSettings(), seed=0)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": "huge"}, "size is 'huge'; choose one of tiny, small, medium, large"),
        ({"num_experts": 4}, "active_experts 0"),
        ({"num_experts": 2, "active_experts": 3}, "active_experts 3"),
        ({"active_experts": 1}, "num_experts 0"),
        ({"context_length": 8}, "context_length"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TinyModelSettings(**wrong)  # type: ignore[arg-type]
