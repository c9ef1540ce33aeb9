"""What the KL term does to a real training step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.learner_cases import (
    LINEAR,
    gradient,
    largest,
    largest_difference,
    load_plain,
    make_batch,
    make_model,
    on_policy,
    plain_logprobs,
    split_sequences,
)
from torch import Tensor

from bolt_ray.core.advantages import AdvantageOptions, compute_advantages
from bolt_ray.core.kl import KLOptions
from bolt_ray.core.records import AdvantageInputs, TrainingBatch
from bolt_ray.engines.learner.settings import ReferenceSettings

COEF = 0.5
SHAPES: dict[str, tuple[KLOptions, Callable[[Tensor], Tensor]]] = {
    "none": (KLOptions(estimator="k2"), lambda k: k),
    "clip": (KLOptions(adaptation=("clip",), clip_threshold=0.3), lambda k: k.clamp(max=0.3)),
    "sigmoid": (
        KLOptions(adaptation=("sigmoid",), target=0.3, temperature=0.5),
        lambda k: ((k - 0.3) / 0.5).sigmoid() * k,
    ),
    "hinge": (KLOptions(adaptation=("hinge",), threshold=0.3), lambda k: (k - 0.3).clamp(min=0.0)),
    "softplus": (KLOptions(adaptation=("softplus",), threshold=0.3), lambda k: torch.log1p((k - 0.3).exp())),
    "length_normalized": (KLOptions(adaptation=("length_normalized",)), lambda k: k),
}
"""Each method, and its f(K) written out once more."""


def kl_gradient(
    policy: Any, reference: Any, batch: TrainingBatch, shape: Callable[[Tensor], Tensor], *, by_sequence: bool
) -> dict[str, Tensor]:
    """Gradient of the shaped KL alone, by plain PyTorch: a mean over all tokens, or over sequences of their means."""
    parts = []
    for tokens, prompt in zip(split_sequences(batch), batch.prompt_lengths.tolist(), strict=True):
        theirs = plain_logprobs(reference, tokens, prompt).detach()
        parts.append((theirs - plain_logprobs(policy, tokens, prompt)).square() / 2)
    if by_sequence:
        loss = torch.stack([shape(part.mean()) for part in parts]).mean()
    else:
        loss = shape(torch.cat(parts)).mean()
    policy.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}


@pytest.mark.parametrize("method", SHAPES)
def test_each_shape_adds_the_gradient_of_its_definition(
    learner_of: Any, model_path: str, tmp_path: Path, method: str
) -> None:
    options, shape = SHAPES[method]
    reference = ReferenceSettings(path=make_model(tmp_path, seed=5))
    batch = make_batch()
    without = gradient(learner_of(**LINEAR), batch)
    with_kl = gradient(learner_of(**LINEAR, kl_coef=COEF, kl=options, reference=reference), batch)
    expected = kl_gradient(
        load_plain(model_path),
        load_plain(str(reference.path)),
        batch,
        shape,
        by_sequence=method == "length_normalized",
    )
    added = {name: (with_kl[name] - without[name]) / COEF for name in expected}
    assert largest_difference(added, expected) < 1e-4
    assert largest(expected) > 1e-2


@pytest.mark.parametrize(
    ("controller", "parameters", "factor"),
    [
        (
            "dynamic",
            {"kl_window": 1, "kl_reward_threshold": 0.0, "kl_dynamic_beta_decay": 0.5},
            0.5,
        ),  # rewards are all above 0
        ("ziegler", {"kl_controller_target": 1e-3, "kl_horizon": 24.0}, 1.1),  # far above the target: 1 + 0.2 · 12 / 24
        ("ziegler", {"kl_controller_target": 1e3, "kl_horizon": 24.0}, 0.9),
        ("ppo_penalty", {"kl_controller_target": 1e-3}, 2.0),
        ("ppo_penalty", {"kl_controller_target": 1e3}, 0.5),
    ],
)
def test_a_controllers_coefficient_is_the_one_of_the_next_steps_gradient(
    learner_of: Any, tmp_path: Path, controller: str, parameters: dict[str, float], factor: float
) -> None:
    reference = ReferenceSettings(path=make_model(tmp_path / "reference", seed=5))
    # Without memory of the first step in Adam, the second is its own gradient.
    steps = LINEAR | {"betas": (0.0, 0.0), "learning_rate": 1.0}
    options = {"kl": KLOptions(estimator="k2"), "reference": reference}
    controlled = learner_of(**steps, **options, kl_coef=COEF, kl_controller=controller, **parameters)
    first = controlled.train_step(make_batch(0))
    assert first.metrics["adaptive_kl/current_beta"] == pytest.approx(COEF * factor)
    controlled.save_hf(tmp_path / "after")
    batch = make_batch(1)
    changed = gradient(controlled, batch)
    by_hand = learner_of(**steps, **options, kl_coef=COEF * factor, model_path=str(tmp_path / "after"))
    unchanged = learner_of(**steps, **options, kl_coef=COEF, model_path=str(tmp_path / "after"))
    assert largest_difference(changed, gradient(by_hand, batch)) < 1e-7
    assert largest_difference(changed, gradient(unchanged, batch)) > 1e-6


@pytest.mark.parametrize(
    ("trained", "left_out", "factor"), [(1.0, 0.0, 0.5), (0.0, 1.0, 1.0)], ids=["high rewards", "low rewards"]
)
def test_a_controller_sees_the_rewards_of_the_sequences_trained(
    learner_of: Any, trained: float, left_out: float, factor: float
) -> None:
    """Half of the batch is masked; on all twelve the mean would be 0.5, on the other side of one threshold."""
    masked = tuple(range(6))
    batch = make_batch(inactive=masked)
    batch.rewards[:] = trained
    batch.rewards[list(masked)] = left_out
    dynamic = {"kl_window": 1, "kl_reward_threshold": 0.8 if trained else 0.2, "kl_dynamic_beta_decay": 0.5}
    learner = learner_of(kl_coef=COEF, kl_controller="dynamic", **dynamic)
    report = learner.train_step(batch)
    assert report.metrics["adaptive_kl/current_beta"] == pytest.approx(COEF * factor)


def test_kl_in_the_reward_is_weighted_by_the_controllers_coefficient(learner_of: Any, tmp_path: Path) -> None:
    reference = ReferenceSettings(path=make_model(tmp_path / "reference", seed=5))
    # Without memory of the first step in Adam, the second is its own gradient.
    steps = LINEAR | {"betas": (0.0, 0.0), "learning_rate": 1.0}
    in_reward = {"kl": KLOptions(estimator="k1", placement="reward"), "reference": reference}
    halved = {"kl_controller": "ppo_penalty", "kl_controller_target": 1e3}
    controlled = learner_of(**steps, **in_reward, kl_coef=COEF, **halved)
    controlled.train_step(_with_rewards(make_batch(0)))
    controlled.save_hf(tmp_path / "after")
    batch = _with_rewards(make_batch(1))
    changed = gradient(controlled, batch)
    by_hand = learner_of(**steps, **in_reward, kl_coef=COEF / 2, model_path=str(tmp_path / "after"))
    unchanged = learner_of(**steps, **in_reward, kl_coef=COEF, model_path=str(tmp_path / "after"))
    assert largest_difference(changed, gradient(by_hand, batch)) < 1e-7
    assert largest_difference(changed, gradient(unchanged, batch)) > 1e-6


def _with_rewards(batch: TrainingBatch) -> TrainingBatch:
    """With what the learner needs to make the advantages again."""
    count = len(batch.rewards)
    inputs = AdvantageInputs(
        rewards=batch.rewards.astype(np.float64),
        v_hat=np.full(count, 0.5),
        n_eff=np.full(count, 8.0),
        group_ids=np.arange(count),
    )
    return dataclasses.replace(batch, advantage_inputs=inputs)


@pytest.mark.parametrize(("baseline", "normalize"), [("tracker", "token"), ("group", "group"), ("rloo", "none")])
def test_kl_in_the_reward_comes_before_baseline_and_normalization(
    learner_of: Any, tmp_path: Path, baseline: str, normalize: str
) -> None:
    reference = ReferenceSettings(path=make_model(tmp_path, seed=5))
    batch = on_policy(learner_of(), make_batch(inactive=(3,)))
    rng = np.random.default_rng(2)
    inputs = AdvantageInputs(
        rewards=rng.random(12), v_hat=rng.random(12), n_eff=np.full(12, 8.0), group_ids=np.arange(12) // 4
    )
    other = learner_of(model_path=reference.path)
    theirs = other.logprobs(split_sequences(batch), batch.prompt_lengths.tolist())
    ours = np.split(batch.behavior_logprobs, np.cumsum(batch.completion_lengths)[:-1])
    penalty = np.array([(a - b).sum() for a, b in zip(ours, theirs, strict=True)])  # k1
    options = AdvantageOptions(baseline=baseline, normalize=normalize)
    by_hand = compute_advantages(
        inputs.rewards - 0.1 * penalty / 2.0,  # rewards from 0 to 2, scaled to 0 to 1
        inputs.v_hat,
        inputs.n_eff,
        inputs.group_ids,
        batch.completion_lengths,
        baseline=baseline,
        normalize=normalize,
        active=batch.active,
    ).advantages
    expected = gradient(learner_of(**LINEAR), dataclasses.replace(batch, advantages=by_hand))
    kl = {"kl_coef": 0.1, "kl": KLOptions(estimator="k1", placement="reward"), "reference": reference}
    learner = learner_of(**LINEAR, **kl, advantage=options, reward_width=2.0)
    got = gradient(learner, dataclasses.replace(batch, advantage_inputs=inputs))
    assert largest_difference(expected, got) < 1e-4
    assert largest(expected) > 1e-2


def test_kl_controller_moves_the_coefficient(learner_of: Any) -> None:
    learner = learner_of(kl_coef=0.2, kl_controller="ppo_penalty", kl_controller_target=100.0)
    first = learner.train_step(make_batch(0))
    assert first.metrics["adaptive_kl/raw_kl"] == pytest.approx(0.0, abs=1e-6)
    assert first.metrics["adaptive_kl/current_beta"] == pytest.approx(0.1)
