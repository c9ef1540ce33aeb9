"""A mixture of experts is trained, with and without the router's load-balancing loss; Gemma 2's capped attention."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.learner_cases import (
    LINEAR,
    gradient,
    load_plain,
    make_batch,
    make_model,
    on_policy,
    plain_logprobs,
    split_sequences,
)

from bolt_ray.core.errors import ModelError
from bolt_ray.engines.learner.model import load_causal_lm

EXPERTS, ACTIVE = 4, 2


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Qwen3-MoE with weights large enough for its router to prefer some experts."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=128,
        num_experts=EXPERTS,
        num_experts_per_tok=ACTIVE,
        initializer_range=0.2,
    )
    path = tmp_path_factory.mktemp("mixture")
    Qwen3MoeForCausalLM(config).save_pretrained(path)
    return str(path)


def plain_balance(model: Any, batch: Any) -> torch.Tensor:
    """E·Σ_e f_e·P_e at the places that predict completion tokens, f_e the share of tokens that go to expert e and P_e
    its mean probability, the mean over both layers (Switch Transformer, eq. 4)."""
    chosen = []
    for tokens, prompt in zip(split_sequences(batch), batch.prompt_lengths, strict=True):
        ids = torch.from_numpy(tokens.astype("int64"))[None]
        logits = model.base_model(input_ids=ids, output_router_logits=True).router_logits
        chosen.append(torch.stack([layer[prompt - 1 : -1] for layer in logits]))
    probabilities = torch.softmax(torch.cat(chosen, dim=1), dim=-1)
    got = torch.zeros_like(probabilities).scatter(2, probabilities.topk(ACTIVE, dim=-1).indices, 1.0)
    return EXPERTS * (got.mean(1) * probabilities.mean(1)).sum(-1).mean()


def test_its_log_probs_are_the_model_s_own(learner_of: Any, mixture: str) -> None:
    batch = make_batch()
    model = load_plain(mixture)
    learner = learner_of(model_path=mixture, micro_batch_tokens=60)
    ours = learner.logprobs(split_sequences(batch), batch.prompt_lengths.tolist())
    for tokens, prompt, got in zip(split_sequences(batch), batch.prompt_lengths, ours, strict=True):
        expected = plain_logprobs(model, tokens, int(prompt)).detach()
        torch.testing.assert_close(torch.from_numpy(got), expected, atol=1e-4, rtol=0)


def test_the_router_s_loss_adds_its_own_gradient_times_the_coefficient(learner_of: Any, mixture: str) -> None:
    """All sequences in one micro-batch: the loss is a mean over it, as Transformers has it."""
    batch = on_policy(learner_of(model_path=mixture), make_batch())
    without = gradient(learner_of(model_path=mixture, **LINEAR), batch)
    learner = learner_of(model_path=mixture, router_aux_loss_coef=2.0, **LINEAR)
    added = {name: value - without[name] for name, value in gradient(learner, batch).items()}
    model = load_plain(mixture)
    loss = plain_balance(model, batch)
    loss.backward()
    expected = {name: 2.0 * weight.grad for name, weight in model.named_parameters() if ".gate.weight" in name}
    assert len(expected) == 2
    for name, wanted in expected.items():
        torch.testing.assert_close(added[name], wanted, atol=0.02 * float(wanted.abs().max()), rtol=0)
    report = learner_of(model_path=mixture, router_aux_loss_coef=2.0).train_step(batch)
    assert report.metrics["policy/router_balance"] == pytest.approx(loss.item(), rel=1e-4)


def test_training_with_it_evens_the_experts_out(learner_of: Any, mixture: str) -> None:
    learner = learner_of(model_path=mixture, router_aux_loss_coef=1.0, learning_rate=1e-2, micro_batch_tokens=60)
    batch = on_policy(learner, make_batch())
    seen = [learner.train_step(batch).metrics["policy/router_balance"] for _ in range(15)]
    assert seen[0] > ACTIVE
    assert seen[-1] - ACTIVE < 0.5 * (seen[0] - ACTIVE)


def test_a_dense_model_has_no_router_to_balance(learner_of: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"router_aux_loss_coef balances the experts.*Qwen2ForCausalLM has none"):
        learner_of(model_path=make_model(tmp_path), router_aux_loss_coef=0.1)


def test_sdpa_would_leave_out_a_capped_attention(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "head_dim": 8}
    config = Gemma2Config(**shape, num_attention_heads=4, num_key_value_heads=2)
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    load = {"dtype": torch.float32, "trust_remote_code": False}
    with pytest.raises(ModelError, match=r"caps its attention scores.*eager or flash_attention_2"):
        load_causal_lm(str(tmp_path), attention="sdpa", **load)  # type: ignore[arg-type]
    assert load_causal_lm(str(tmp_path), attention="eager", **load)  # type: ignore[arg-type]
