"""LoRA: what PEFT reads back, what merging gives, and what moves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.learner_cases import (
    LINEAR,
    largest,
    largest_difference,
    make_batch,
    make_model,
    split_sequences,
)
from support.ranks import RankPool
from support.settings import learner_settings

from bolt_ray.core.errors import ModelError
from bolt_ray.engines.learner.learner import DeepSpeedLearner
from bolt_ray.engines.learner.lora import export_merged


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def trained(model_path: str) -> Iterator[DeepSpeedLearner]:
    learner = adapter_learner(model_path)
    for step in range(2):
        learner.train_step(make_batch(step))
    yield learner
    learner.close()


def adapter_learner(model_path: str, **changes: Any) -> DeepSpeedLearner:
    settings: dict[str, Any] = {
        "dtype": "float32",
        "learning_rate": 1e-2,
        "use_peft": True,
        "lora_r": 4,
        "lora_alpha": 8.0,
    }
    return DeepSpeedLearner(learner_settings(model_path=model_path, **(settings | changes)))


def logprobs(learner: DeepSpeedLearner) -> np.ndarray:
    batch = make_batch()
    return np.concatenate(learner.logprobs(split_sequences(batch), batch.prompt_lengths.tolist()))


def plain_learner(path: Path | str) -> DeepSpeedLearner:
    return DeepSpeedLearner(learner_settings(model_path=str(path), dtype="float32"))


def test_a_new_adapter_is_the_base_model(model_path: str) -> None:
    learner, base = adapter_learner(model_path), plain_learner(model_path)
    np.testing.assert_allclose(logprobs(learner), logprobs(base), atol=1e-6)
    learner.close()
    base.close()


def test_only_the_adapter_moves_and_is_sent(trained: DeepSpeedLearner, model_path: str) -> None:
    sent = dict(trained.iter_adapter_weights())
    assert len(sent) == 2 * 7 * 2  # A and B of seven linear layers in two blocks
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in sent
    assert all(float(tensor.abs().max()) > 0 for tensor in sent.values())
    assert {tensor.shape[0] for name, tensor in sent.items() if "lora_A" in name} == {4}
    with pytest.raises(ModelError, match="iter_adapter_weights"):
        trained.iter_weights()


def test_peft_reads_the_saved_adapter(trained: DeepSpeedLearner, model_path: str, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    trained.save_adapter(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, str(tmp_path))
    batch = make_batch()
    tokens, prompt = split_sequences(batch)[0], int(batch.prompt_lengths[0])
    ids = torch.from_numpy(tokens.astype(np.int64))
    logits = torch.log_softmax(model(input_ids=ids[None]).logits[0, prompt - 1 : -1], -1)
    expected = logits.gather(1, ids[prompt:, None])[:, 0].detach().numpy()
    np.testing.assert_allclose(logprobs(trained)[: len(expected)], expected, atol=1e-5)


def test_merged_model_is_the_adapted_one(trained: DeepSpeedLearner, model_path: str, tmp_path: Path) -> None:
    trained.save_adapter(tmp_path / "adapter")
    export_merged(model_path, str(tmp_path / "adapter"), tmp_path / "merged")
    merged = plain_learner(tmp_path / "merged")
    np.testing.assert_allclose(logprobs(merged), logprobs(trained), atol=1e-5)
    merged.close()
    names = load_file(Path(model_path) / "model.safetensors").keys()
    assert load_file(tmp_path / "merged" / "model.safetensors").keys() == names


def test_checkpoint_of_an_adapter(trained: DeepSpeedLearner, model_path: str, tmp_path: Path) -> None:
    trained.save(tmp_path)
    expected = logprobs(trained)
    trained.train_step(make_batch(2))
    after = logprobs(trained)
    resumed = adapter_learner(model_path)
    resumed.load(tmp_path)
    np.testing.assert_array_equal(logprobs(resumed), expected)
    resumed.train_step(make_batch(2))
    np.testing.assert_array_equal(logprobs(resumed), after)
    resumed.close()


def test_wrong_adapters_are_refused(model_path: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lm_head"):
        adapter_learner(model_path, use_peft=True, lora_target_modules=("lm_head",))
    with pytest.raises(ModelError, match="no adapter can be put"):
        adapter_learner(model_path, use_peft=True, lora_target_modules=("no_such_layer",))
    with pytest.raises(ModelError, match="no adapter directory"):
        export_merged(model_path, str(tmp_path), tmp_path / "out")
    learner = plain_learner(model_path)
    with pytest.raises(ModelError, match="has no adapter"):
        learner.save_adapter(tmp_path)
    learner.close()


def adapter_gradient(learner: DeepSpeedLearner) -> dict[str, torch.Tensor]:
    """Of the second step: at the first B is 0, and so is the gradient of A."""
    learner.train_step(make_batch(0))
    before = {name: tensor.detach().clone() for name, tensor in learner.iter_adapter_weights(torch.float32)}
    learner.train_step(make_batch(1))
    return {name: before[name] - tensor for name, tensor in learner.iter_adapter_weights(torch.float32)}


# Without memory of the first step in Adam, the second update is learning_rate · gradient / epsilon.
LINEAR_ADAPTER = LINEAR | {"betas": (0.0, 0.0), "micro_batch_tokens": 100}


def sharded_gradients(rank: int, model: str, out: str) -> None:
    for stage in (0, 2, 3):
        learner = adapter_learner(model, zero_stage=stage, **LINEAR_ADAPTER)
        found = adapter_gradient(learner)
        learner.save_adapter(f"{out}/adapter{stage}")
        learner.close()
        if rank == 0:
            torch.save(found, f"{out}/gradient{stage}.pt")


@pytest.mark.slow
def test_adapters_have_one_gradient_on_one_and_two_ranks(model_path: str, tmp_path: Path, two_ranks: RankPool) -> None:
    """Adam's usual epsilon hides the scale of a gradient: a factor lost over ranks or micro-batches shows here."""
    learner = adapter_learner(model_path, **LINEAR_ADAPTER)
    expected = adapter_gradient(learner)
    learner.close()
    for part in ("lora_A", "lora_B"):
        assert largest({name: tensor for name, tensor in expected.items() if part in name}) > 0.01, part
    two_ranks.run(sharded_gradients, model_path, str(tmp_path))
    for stage in (0, 2, 3):
        found = torch.load(tmp_path / f"gradient{stage}.pt", weights_only=True)
        assert largest_difference(found, expected) < 1e-5, stage
        saved = load_file(tmp_path / f"adapter{stage}" / "adapter_model.safetensors")
        assert set(saved) == set(expected)
