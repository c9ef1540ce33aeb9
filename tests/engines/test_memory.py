"""The memory estimate: sizes against the model itself, bytes by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import peft
import pytest
from support.models import make_model
from transformers import AutoModelForCausalLM, MambaConfig

from bolt_ray.commands.shared.resources import describe_memory
from bolt_ray.config.loading import build_config
from bolt_ray.config.resolve import resolve
from bolt_ray.core.kl_options import KLSettings
from bolt_ray.engines.learner.settings import LearnerSettings, ReferenceSettings, TrainSettings
from bolt_ray.engines.memory import ModelSize, cache_bytes_per_token, learner_memory, model_size
from bolt_ray.engines.settings import ModelSettings

SIZE = ModelSize(parameters=1000, adapter_parameters=10, layers=3, hidden=8, key_value_width=16)


def settings(
    *, kl: float = 0.0, reference: str = "auto", train: TrainSettings, model: ModelSettings
) -> LearnerSettings:
    return LearnerSettings(
        model_path="",
        model=model,
        train=train,
        kl=KLSettings(coef=kl),
        reference=ReferenceSettings(device=reference),  # type: ignore[arg-type]
        reward_width=1.0,
        seed=0,
    )


BF16, FP32 = ModelSettings(dtype="bfloat16"), ModelSettings(dtype="float32")


@pytest.mark.parametrize(
    ("stage", "model", "ranks", "expected"),
    [
        (0, FP32, 4, (4000, 4000, 8000)),
        (0, BF16, 4, (2000, 4000, 12000 / 4)),  # runs as stage 1
        (2, FP32, 4, (4000, 1000, 2000)),
        (3, BF16, 4, (500, 1000, 3000)),
        (0, replace(FP32, use_peft=True, lora_r=2), 1, (4000, 80, 160)),
    ],
)
def test_weights_gradients_and_optimizer(
    stage: int, model: ModelSettings, ranks: int, expected: tuple[float, ...]
) -> None:
    train = TrainSettings(zero_stage=stage, micro_batch_tokens=10)  # type: ignore[arg-type]
    got = learner_memory(SIZE, settings(train=train, model=model), ranks=ranks)
    assert (got.weights, got.gradients, got.optimizer, got.reference) == (*expected, 0.0)
    assert got.total == sum(expected) + got.activations


def test_what_is_offloaded_or_not_needed_is_not_there() -> None:
    train = TrainSettings(zero_stage=3, offload_optimizer=True, offload_parameters=True, micro_batch_tokens=10)
    got = learner_memory(SIZE, settings(kl=0.1, train=train, model=BF16), ranks=2)
    assert (got.weights, got.optimizer, got.reference) == (0.0, 0.0, 1000.0)
    on_host = learner_memory(SIZE, settings(kl=0.1, reference="cpu", train=train, model=BF16), ranks=2)
    assert on_host.reference == 0.0


def test_recomputing_keeps_one_width_per_layer() -> None:
    train = TrainSettings(micro_batch_tokens=10)
    whole = learner_memory(SIZE, settings(train=train, model=FP32), ranks=1).activations
    recomputed = learner_memory(
        SIZE, settings(train=train, model=replace(FP32, gradient_checkpointing=True)), ranks=1
    ).activations
    assert (whole, recomputed) == (10 * 8 * 4 * (3 * 16 + 16), 10 * 8 * 4 * (3 + 16))


def test_the_cache_of_a_token() -> None:
    assert cache_bytes_per_token(SIZE, bytes_per_number=2) == 3 * 16 * 2


def test_sizes_are_those_of_the_model(tmp_path: Path) -> None:
    path = make_model(tmp_path / "model", tie_embeddings=False)
    size = model_size(path, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(path)
    assert size.parameters == model.num_parameters()
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear"))
    assert 4 * size.adapter_parameters == adapted.get_nb_trainable_parameters()[0]


def test_a_model_without_attention_heads_is_described_without_its_cache(tmp_path: Path) -> None:
    MambaConfig(vocab_size=16, hidden_size=8, state_size=4, num_hidden_layers=2).save_pretrained(tmp_path)
    size = model_size(tmp_path, trust_remote_code=False)
    assert (size.layers, size.hidden, size.key_value_width) == (2, 8, 0)
    tree = {"model": {"name_or_path": str(tmp_path)}, "datasets": [{"name": "p.jsonl"}], "rewards": ["exact"]}
    described = describe_memory(resolve(build_config(tree), use_gpu=False), tmp_path)
    assert described.endswith(" GiB of cache.") and "a token takes" not in described
