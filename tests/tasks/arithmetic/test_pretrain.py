from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.learner_cases import largest_difference
from transformers import AutoModelForCausalLM, AutoTokenizer

from bolt_ray.tasks.arithmetic.cache import settings_digest
from bolt_ray.tasks.arithmetic.pretrain import (
    PretrainProgress,
    accuracy,
    default_model_dir,
    ensure_model,
    pretrain,
)
from bolt_ray.tasks.arithmetic.problems import generate_problems
from bolt_ray.tasks.arithmetic.settings import PretrainSettings
from bolt_ray.tasks.tiny.sampling import sample_completions

SHORT = PretrainSettings(
    max_digits=1,
    max_depth=1,
    pretrain_steps=60,
    hasty_steps=0,
    pretrain_batch_size=64,
    pretrain_warmup_steps=10,
    pretrain_eval_problems=64,
    pretrain_eval_tokens=24,
)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def losses(settings: PretrainSettings, directory: Path) -> list[float]:
    """Of every step, the model being left in ``directory``."""
    progress: list[PretrainProgress] = []
    pretrain(settings, directory, on_progress=progress.append)
    assert [(entry.step, entry.steps) for entry in progress] == [
        (step, settings.total_steps) for step in range(1, settings.total_steps + 1)
    ]
    return [entry.loss for entry in progress]


def test_a_short_pretraining_lowers_the_loss(tmp_path: Path) -> None:
    progress: list[PretrainProgress] = []
    report = pretrain(SHORT, tmp_path, on_progress=progress.append)
    # The log of the vocabulary of 101 tokens at first.
    assert report.first_loss == pytest.approx(4.615, abs=0.15)
    assert report.last_loss < 2.0
    assert [entry.step for entry in progress] == list(range(1, 61))
    assert progress[0].loss == report.first_loss
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    held_out = list(itertools.islice(generate_problems(SHORT, seed=SHORT.pretrain_seed, held_out=True), 64))
    for temperature, found in ((1.0, report.sampled_accuracy), (0.0, report.greedy_accuracy)):
        expected = accuracy(
            model, tokenizer, held_out, temperature=temperature, max_new_tokens=24, seed=SHORT.pretrain_seed
        )
        # One problem more or less: two likely tokens may be so close that rounding decides.
        assert found == pytest.approx(expected, abs=1 / 64)


def test_demonstrations_without_steps_come_last_and_change_the_weights(tmp_path: Path) -> None:
    settings = dataclasses.replace(
        SHORT, max_depth=2, pretrain_steps=2, hasty_steps=2, hasty_fraction=1.0, pretrain_eval_problems=0
    )
    answer_only = losses(settings, tmp_path / "answer_only")
    worked = losses(dataclasses.replace(settings, hasty_fraction=0.0), tmp_path / "worked")
    assert answer_only[:2] == pytest.approx(worked[:2], rel=1e-5)
    assert abs(answer_only[2] - worked[2]) > 1e-3, "other demonstrations"
    assert abs(answer_only[3] - worked[3]) > 1e-2, "and another model after the first of them"


def test_the_seed_decides(tmp_path: Path) -> None:
    settings = dataclasses.replace(SHORT, pretrain_steps=3, pretrain_eval_problems=0)
    first = losses(settings, tmp_path / "a")
    assert losses(settings, tmp_path / "b") == pytest.approx(first, rel=1e-5)
    other = losses(dataclasses.replace(settings, pretrain_seed=1), tmp_path / "c")
    assert abs(other[0] - first[0]) > 1e-3
    # Three steps of Adam move a weight by at most 2e-3 · (.1 + .2 + .3); rounding alone can turn a few of them around.
    trained = weights(tmp_path / "a")
    assert largest_difference(weights(tmp_path / "b"), trained) < 5e-3
    assert largest_difference(weights(tmp_path / "c"), trained) > 5e-2


def test_a_model_is_trained_once_for_its_settings(tmp_path: Path) -> None:
    settings = dataclasses.replace(SHORT, pretrain_steps=2, pretrain_eval_problems=0)
    directory, report = ensure_model(settings, cache_dir=tmp_path)
    assert directory == default_model_dir(settings, cache_dir=tmp_path)
    assert report.sampled_accuracy == 0.0
    progress: list[PretrainProgress] = []
    assert ensure_model(settings, cache_dir=tmp_path, on_progress=progress.append) == (directory, report)
    assert progress == []
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]
    assert settings_digest(settings, PretrainSettings) != settings_digest(
        dataclasses.replace(settings, pretrain_seed=9), PretrainSettings
    )

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert accuracy(model, tokenizer, [], temperature=1.0, max_new_tokens=4, seed=0) == 0.0
    prompts = ["1+1=", "abs(prev(-3)*next(2))=", "7*8="]
    # A model of two steps gives nearly equal logits; a sharper head leaves no tie to rounding.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(20.0)
    # Neither left padding nor the cache changes what is generated.
    together = sample_completions(model, tokenizer, prompts, temperature=0.0, max_new_tokens=8, seed=0)
    alone = [
        sample_completions(model, tokenizer, [prompt], temperature=0.0, max_new_tokens=8, seed=0)[0]
        for prompt in prompts
    ]
    assert together == alone
    for prompt, completion in zip(prompts, together, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        for _ in range(8):
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], dim=1)
        whole = tokenizer.decode(ids[0]).removeprefix(prompt).split("<eos>")[0]
        assert whole.replace("<pad>", "").replace("<unk>", "") == completion


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pretrain_steps": 0}, "pretrain_steps"),
        ({"pretrain_batch_size": 0}, "pretrain_batch_size"),
        ({"hasty_steps": -1}, "hasty_steps"),
        ({"hasty_fraction": 1.1}, "hasty_fraction"),
        ({"pretrain_learning_rate": float("nan")}, "pretrain_learning_rate"),
        ({"pretrain_learning_rate": 0.0}, "pretrain_learning_rate"),
        ({"pretrain_weight_decay": -1.0}, "pretrain_weight_decay"),
        ({"pretrain_warmup_steps": -1}, "pretrain_warmup_steps"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainSettings(**wrong)  # type: ignore[arg-type]
