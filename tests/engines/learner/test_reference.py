"""Reference modes: after n steps each equals its formula; nothing is loaded when nothing reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.learner_cases import largest_difference, make_batch, make_model, split_sequences, weights_of
from support.ranks import RankPool
from support.settings import learner_settings

from bolt_ray.core.errors import ModelError
from bolt_ray.engines.learner.learner import DeepSpeedLearner
from bolt_ray.engines.learner.packing import TokenColumns
from bolt_ray.engines.learner.settings import ReferenceSettings


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("model"))


def learner_of(model_path: str, **changes: Any) -> DeepSpeedLearner:
    settings: dict[str, Any] = {"dtype": "float32", "learning_rate": 1e-2, "kl_coef": 0.1} | changes
    return DeepSpeedLearner(learner_settings(model_path=model_path, **settings))


def reference_of(learner: DeepSpeedLearner) -> dict[str, torch.Tensor]:
    assert learner.reference is not None
    return {name: tensor.detach().clone() for name, tensor in learner.reference.iter_state()}


def reference_logprobs(learner: DeepSpeedLearner) -> np.ndarray:
    """Of the sequences of batch 0."""
    columns = TokenColumns.of_batch(make_batch())
    assert learner.reference is not None
    return learner.reference.logprobs(columns, np.arange(12), planner=learner.planner)


def policy_logprobs(learner: DeepSpeedLearner) -> np.ndarray:
    batch = make_batch()
    return np.concatenate(learner.logprobs(split_sequences(batch), batch.prompt_lengths.tolist()))


def follow(learner: DeepSpeedLearner, mode: str, steps: int) -> dict[str, torch.Tensor]:
    """Train and compute the reference by its formula (α = 0.9; a copy every second step)."""
    expected = weights_of(learner)
    for step in range(steps):
        learner.train_step(make_batch(step))
        policy = weights_of(learner)
        if mode == "ema":
            expected = {name: 0.9 * expected[name] + 0.1 * policy[name] for name in policy}
        elif step % 2 == 1:
            expected = policy
    expected.pop("lm_head.weight")
    return expected


def test_no_reference_without_a_coefficient(model_path: str) -> None:
    learner = learner_of(model_path, kl_coef=0.0)
    assert learner.reference is None
    assert "adaptive_kl/raw_kl" not in learner.train_step(make_batch()).metrics
    learner.close()


def test_static_stays_the_initial_policy(model_path: str) -> None:
    learner = learner_of(model_path)
    initial = policy_logprobs(learner)
    first = learner.train_step(make_batch(0))
    second = learner.train_step(make_batch(1))
    np.testing.assert_array_equal(reference_logprobs(learner), initial)
    assert np.abs(policy_logprobs(learner) - initial).max() > 0.1
    assert first.metrics["adaptive_kl/raw_kl"] == pytest.approx(0.0, abs=1e-6)
    assert second.metrics["adaptive_kl/raw_kl"] > 1e-3
    assert reference_of(learner) == {}
    learner.close()


@pytest.mark.parametrize("mode", ["ema", "periodic"])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_following_references_equal_their_formula(model_path: str, mode: Any, device: Any) -> None:
    settings = ReferenceSettings(mode=mode, ema_alpha=0.9, update_freq=2, device=device)
    learner = learner_of(model_path, reference=settings)
    expected = follow(learner, mode, steps=3)
    assert largest_difference(reference_of(learner), expected) < 1e-6
    learner.close()


def test_a_skipped_step_does_not_move_the_reference(model_path: str) -> None:
    learner = learner_of(model_path, reference=ReferenceSettings(mode="ema", ema_alpha=0.5))
    learner.train_step(make_batch(0))
    before = reference_of(learner)
    bad = make_batch(1)
    bad.advantages[:] = np.nan
    assert learner.train_step(bad).skipped
    assert largest_difference(reference_of(learner), before) == 0.0
    learner.close()


def test_following_reference_is_in_the_checkpoint(model_path: str, tmp_path: Path) -> None:
    settings = ReferenceSettings(mode="ema", ema_alpha=0.9)
    learner = learner_of(model_path, reference=settings)
    for step in range(2):
        learner.train_step(make_batch(step))
    learner.save(tmp_path)
    expected = reference_of(learner)
    learner.close()
    resumed = learner_of(model_path, reference=settings)
    resumed.load(tmp_path)
    assert largest_difference(reference_of(resumed), expected) == 0.0
    resumed.close()


def test_adapter_off_is_the_base_model(model_path: str) -> None:
    learner = learner_of(model_path, use_peft=True, lora_r=4)
    base = policy_logprobs(learner)
    for step in range(2):
        learner.train_step(make_batch(step))
    assert np.abs(policy_logprobs(learner) - base).max() > 0.1
    np.testing.assert_array_equal(reference_logprobs(learner), base)
    assert not learner.train_step(make_batch(2)).skipped  # adapters are trained again afterwards
    learner.close()


def test_another_model_cannot_follow(model_path: str, tmp_path: Path) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    small = Qwen3Config(vocab_size=48, hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    Qwen3ForCausalLM(small).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot follow"):
        learner_of(model_path, reference=ReferenceSettings(mode="ema", path=str(tmp_path)))


def follow_sharded(rank: int, model: str) -> None:
    for mode in ("ema", "periodic"):
        settings = ReferenceSettings(mode=mode, ema_alpha=0.9, update_freq=2)  # type: ignore[arg-type]
        learner = learner_of(model, zero_stage=3, reference=settings)
        initial = policy_logprobs(learner)
        np.testing.assert_allclose(reference_logprobs(learner), initial, atol=1e-6)
        expected = follow(learner, mode, steps=3)
        assert largest_difference(reference_of(learner), expected) < 1e-6
        learner.close()


@pytest.mark.slow
def test_sharded_reference_follows_on_two_ranks(model_path: str, two_ranks: RankPool) -> None:
    two_ranks.run(follow_sharded, model_path)
