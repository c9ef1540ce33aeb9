"""Model FLOPs, counted by hand for small models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.learner_cases import make_batch

from bolt_ray.engines.learner.flops import TrainingFlops, Utilization, peak_flops


def qwen(*, tied: bool) -> torch.nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=48,
        hidden_size=12,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
    )
    model: torch.nn.Module = Qwen2ForCausalLM(config)
    return model


# A layer: q 12·12 + 12, k and v 12·4 + 4 each, o 12·12, MLP 3·12·20, two norms of 12; then a norm of 12.
LAYER = 156 + 2 * 52 + 144 + 720 + 24
BODY = 2 * LAYER + 12


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_costs_six_but_those_that_are_looked_up(tied: bool) -> None:
    flops = TrainingFlops.of(qwen(tied=tied))
    assert flops == TrainingFlops(body=6.0 * BODY, head=6.0 * 48 * 12, attention=12.0 * 2 * 3 * 4)
    lengths, completions = np.array([5, 3]), np.array([2, 1])
    expected = 6 * BODY * 8 + 6 * 48 * 12 * 3 + 288 * (25 + 9)
    assert flops.of_sequences(lengths, completions) == expected


def test_frozen_weights_have_no_gradient_of_their_own() -> None:
    model = qwen(tied=True).requires_grad_(False)
    assert TrainingFlops.of(model) == TrainingFlops(body=4.0 * BODY, head=4.0 * 48 * 12, attention=288.0)


def test_of_a_mixture_of_experts_those_count_that_a_token_goes_through() -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(
        vocab_size=48,
        hidden_size=12,
        moe_intermediate_size=10,
        intermediate_size=10,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=6,
        num_experts=8,
        num_experts_per_tok=2,
    )
    model = Qwen3MoeForCausalLM(config)
    experts = sum(parameter.numel() for name, parameter in model.named_parameters() if ".experts." in name)
    assert experts == 8 * 3 * 12 * 10
    others = sum(parameter.numel() for parameter in model.parameters()) - experts - 2 * 48 * 12
    assert TrainingFlops.of(model).body == 6 * (others + experts / 4)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A1000", None),
        ("Tesla T4", None),
    ],
)
def test_the_peak_is_that_of_the_device_or_none(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_utilization_is_left_out_where_the_peak_is_not_known() -> None:
    unknown = Utilization.of(qwen(tied=True), device=torch.device("cpu"), dtype=torch.bfloat16, ranks=2)
    assert unknown.metrics(make_batch(), [np.arange(4)], seconds=1.0) == {}


def test_utilization_is_what_was_done_over_what_could_have_been() -> None:
    """Each pass over a sequence counts."""
    batch = make_batch(sequences=2)
    flops = TrainingFlops(body=3.0, head=2.0, attention=0.5)
    known = Utilization(flops=flops, peak=1000.0)
    one = sum(3.0 * n + 0.5 * n * n for n in batch.lengths.tolist()) + 2.0 * int(batch.completion_lengths.sum())
    found = known.metrics(batch, [np.array([0, 1]), np.array([1, 0])], seconds=4.0)
    assert found == {"perf/mfu": pytest.approx(2 * one / 4000.0)}
    assert known.metrics(batch, [], seconds=4.0) == {}
