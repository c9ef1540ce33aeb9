"""The learner on one rank, with the real DeepSpeed, against plain PyTorch."""

from __future__ import annotations

import dataclasses
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
    on_policy,
    plain_logprobs,
    split_sequences,
    weights_of,
)
from support.settings import learner_settings

from bolt_ray.core.corrections import CorrectionOptions
from bolt_ray.core.errors import ModelError, UnhealthyTrainingError
from bolt_ray.core.losses import LossOptions, policy_loss
from bolt_ray.core.records import TrainingBatch
from bolt_ray.engines.learner.agreement import rounding_metrics
from bolt_ray.engines.learner.learner import DeepSpeedLearner
from bolt_ray.engines.learner.settings import ReferenceSettings


def test_logprobs_are_those_of_the_model_one_sequence_at_a_time(learner_of: Any, model_path: str) -> None:
    batch, model = make_batch(), load_plain(model_path)
    ours = learner_of(temperature=0.7, micro_batch_tokens=60).logprobs(
        split_sequences(batch), batch.prompt_lengths.tolist()
    )
    for tokens, prompt, got in zip(split_sequences(batch), batch.prompt_lengths, ours, strict=True):
        expected = plain_logprobs(model, tokens, int(prompt), temperature=0.7).detach().numpy()
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_logprobs_are_of_the_distribution_sampled_from(learner_of: Any, model_path: str) -> None:
    """top_k 3: a token among the three likeliest is normalized over them alone."""
    batch, model = make_batch(), load_plain(model_path)
    ours = learner_of(top_k=3).logprobs(split_sequences(batch), batch.prompt_lengths.tolist())
    checked = 0
    for tokens, prompt, got in zip(split_sequences(batch), batch.prompt_lengths, ours, strict=True):
        ids = torch.from_numpy(tokens.astype(np.int64))
        logits = model(input_ids=ids[None]).logits[0, prompt - 1 : -1].detach()
        best, places = logits.topk(3)
        for step in range(len(got)):
            if ids[prompt + step] in places[step]:
                expected = torch.log_softmax(best[step], -1)[places[step] == ids[prompt + step]].item()
                assert got[step] == pytest.approx(expected, abs=1e-5)
                checked += 1
    assert checked > 3


def test_three_steps_are_those_of_a_plain_training_loop(learner_of: Any, model_path: str) -> None:
    learner = learner_of(loss=LossOptions(type="grpo", clip_low=0.2, clip_high=0.2), micro_batch_tokens=50)
    model = load_plain(model_path)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(3):
        batch = make_batch(step, inactive=(1, 4))
        report = learner.train_step(batch)
        loss = _padded_loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        assert report.metrics["loss/total"] == pytest.approx(loss.item(), abs=1e-5)
        assert report.metrics["optim/grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    expected = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    # Adam divides by the root of the second moment: where a gradient is almost 0, rounding decides its sign.
    assert largest_difference(weights_of(learner), expected) < 2e-4
    assert learner.policy_version == learner.optimizer_steps == 3


def _padded_loss(model: Any, batch: TrainingBatch) -> torch.Tensor:
    """The loss of the active sequences as one padded [B, T] batch."""
    sequences = split_sequences(batch)
    behavior = np.split(batch.behavior_logprobs, np.cumsum(batch.completion_lengths)[:-1])
    active = np.flatnonzero(batch.active)
    width = int(batch.completion_lengths.max())
    logprobs, old, mask = (torch.zeros(len(active), width) for _ in range(3))
    for row, i in enumerate(active):
        length = int(batch.completion_lengths[i])
        logprobs[row, :length] = plain_logprobs(model, sequences[i], int(batch.prompt_lengths[i]))
        old[row, :length] = torch.from_numpy(behavior[i])
        mask[row, :length] = 1
    advantages = torch.from_numpy(batch.advantages[active])
    return policy_loss(logprobs, old, advantages, mask, type="grpo", clip_low=0.2, clip_high=0.2).loss


def test_on_policy_batch_has_no_gap_and_ratio_one(learner_of: Any) -> None:
    learner = learner_of()
    report = learner.train_step(on_policy(learner, make_batch()))
    assert report.metrics["policy/logprob_gap"] <= report.metrics["policy/logprob_gap_max"] < 1e-5
    assert report.metrics["policy/ratio_ess"] == pytest.approx(1.0, abs=1e-6)
    assert report.metrics["policy/ratio_p1"] == pytest.approx(1.0, abs=1e-5)
    assert report.metrics["policy/ratio_p99"] == pytest.approx(1.0, abs=1e-5)
    assert 0.0 <= report.metrics["policy/gen_kl"] < 1e-9
    assert report.metrics["policy/clip_fraction"] == 0.0
    assert "perf/mfu" not in report.metrics, "what a CPU could compute is not known"


def test_a_process_group_that_another_library_destroyed_is_made_anew(learner_of: Any) -> None:
    """DeepSpeed keeps groups of its own, which such a library, vLLM for one, does not know of."""
    learner_of()
    torch.distributed.destroy_process_group()
    learner = learner_of()
    assert not learner.train_step(on_policy(learner, make_batch())).skipped


def test_gap_is_measured_per_token(learner_of: Any) -> None:
    learner = learner_of()
    batch = on_policy(learner, make_batch())
    shifted = batch.behavior_logprobs.copy()
    shifted[0] -= 0.5
    report = learner.train_step(dataclasses.replace(batch, behavior_logprobs=shifted))
    assert report.metrics["policy/logprob_gap_max"] == pytest.approx(0.5, abs=1e-5)
    assert report.metrics["policy/logprob_gap"] == pytest.approx(0.5 / len(shifted), abs=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"minibatch_size": 4}, {"minibatch_size": 4, "recompute_old_logprobs": False}], ids=str
)
def test_the_training_pass_tells_the_log_probs_before_the_update(learner_of: Any, options: dict[str, Any]) -> None:
    learner = learner_of(**options)
    batch = make_batch(inactive=(2,))
    expected = learner.logprobs(split_sequences(batch), batch.prompt_lengths.tolist())
    found = np.split(learner.train_step(batch).logprobs_before, np.cumsum(batch.completion_lengths)[:-1])
    known = [i for i, values in enumerate(found) if np.isfinite(values).all()]
    assert 2 not in known
    # Without a pass of its own for π_old, only the first mini-batch was seen with the old weights.
    assert len(known) == (4 if "recompute_old_logprobs" in options else len(found) - 1)
    for i in known:
        np.testing.assert_allclose(found[i], expected[i], atol=1e-5)


def test_a_probe_gives_the_model_alone_and_as_sampled_in_one_pass(learner_of: Any) -> None:
    learner = learner_of(temperature=0.7, top_k=5)
    batch = make_batch()
    sequences = split_sequences(batch)
    plain, sampled = learner.probe(sequences)
    ones = [1] * len(sequences)
    for got, expected in zip(sampled, learner.logprobs(sequences, ones), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    for got, expected in zip(plain, learner_of().logprobs(sequences, ones), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_rounding_is_measured_where_it_looks_like_a_move(learner_of: Any) -> None:
    """The same tokens twice by the same weights: in bfloat16 not the same, in float32 not worth a pass."""
    assert rounding_metrics(
        np.array([1.0, 2.0, 9.0], dtype=np.float32), np.array([1.5, 2.5, 0.0], dtype=np.float32), np.array([0, 1])
    ) == {"policy/rounding": 0.5}
    learner = learner_of(dtype="bfloat16", learning_rate=1e-5, minibatch_size=5)
    assert 0.0 <= learner.train_step(make_batch()).metrics["policy/rounding"] < 0.5
    assert "policy/rounding" not in learner_of().train_step(make_batch()).metrics


@pytest.mark.parametrize("not_finite", [np.inf, np.nan])
def test_non_finite_batch_changes_nothing_and_is_counted(learner_of: Any, not_finite: float) -> None:
    learner = learner_of(micro_batch_tokens=60)
    learner.train_step(make_batch(0))
    before = weights_of(learner)
    bad = make_batch(1)
    bad.advantages[0] = not_finite
    report = learner.train_step(bad)
    assert report.skipped
    assert report.metrics["optim/bad_steps_in_a_row"] == 1.0
    assert largest_difference(weights_of(learner), before) == 0.0
    good = learner.train_step(make_batch(2))
    assert not good.skipped
    assert (good.metrics["optim/bad_steps_in_a_row"], good.metrics["optim/bad_steps_total"]) == (0.0, 1.0)
    assert (learner.policy_version, learner.optimizer_steps) == (2, 2)


def test_too_many_bad_steps_end_the_run(learner_of: Any) -> None:
    learner = learner_of(max_bad_steps=2)
    bad = make_batch()
    bad.advantages[:] = np.nan
    learner.train_step(bad)
    with pytest.raises(UnhealthyTrainingError, match=r"2 steps in a row.*sampling settings disagree"):
        learner.train_step(bad)


def test_a_batch_without_active_sequences_is_skipped(learner_of: Any) -> None:
    learner = learner_of()
    before = weights_of(learner)
    report = learner.train_step(dataclasses.replace(make_batch(), active=np.zeros(12, dtype=np.bool_)))
    assert report.skipped
    assert report.metrics["optim/bad_steps_total"] == 0.0
    assert largest_difference(weights_of(learner), before) == 0.0


def test_epochs_and_minibatches_recompute_the_ratio(learner_of: Any) -> None:
    learner = learner_of(ppo_epochs=2, minibatch_size=5, learning_rate=1e-3)
    report = learner.train_step(on_policy(learner, make_batch()))
    assert report.metrics["optim/updates"] == learner.optimizer_steps == 6  # 12 sequences in 3 parts, twice
    assert learner.policy_version == 1
    assert report.metrics["policy/logprob_gap_max"] < 1e-5  # measured before the first of them
    assert report.metrics["policy/ratio_ess"] < 1.0  # later mini-batches see a policy that has moved


def test_off_policy_weight_is_applied_once(learner_of: Any) -> None:
    """REINFORCE on tokens of a generator with constant gap e^Δ = 1.5, as a stale one has: weighted by 1.5 by itself."""
    loss = LossOptions(type="reinforce")
    batch = on_policy(learner_of(), make_batch())
    batch = dataclasses.replace(batch, behavior_logprobs=batch.behavior_logprobs - np.float32(np.log(1.5)))
    weighted = gradient(learner_of(**LINEAR, loss=loss), batch)
    plain = gradient(learner_of(**LINEAR, loss=loss, correction=CorrectionOptions(mode="none")), batch)
    assert largest(plain) > 1e-2
    assert largest_difference({k: 1.5 * v for k, v in plain.items()}, weighted) < 1e-5


def test_gspo_clips_no_sequence_for_the_generator_s_rounding(learner_of: Any) -> None:
    """Its range is 4e-4 wide and bfloat16 rounds a log-prob by .03: against the generator most would be clipped."""
    batch = on_policy(learner_of(), make_batch())
    noise = np.random.default_rng(0).normal(-0.01, 0.03, batch.behavior_logprobs.shape).astype(np.float32)
    batch = dataclasses.replace(batch, behavior_logprobs=batch.behavior_logprobs + noise)
    report = learner_of(loss=LossOptions(type="gspo")).train_step(batch)
    assert report.metrics["policy/logprob_gap"] > 0.01
    assert report.metrics["policy/clip_fraction"] == 0.0


def test_clipped_loss_uses_the_ratio_to_the_generator_or_the_weight_never_both(learner_of: Any) -> None:
    """Unclipped DAPO with ratio 1.1 has the same gradient both ways: r·A·∇log π against w·A·∇log π."""
    batch = on_policy(learner_of(), make_batch())
    batch = dataclasses.replace(batch, behavior_logprobs=batch.behavior_logprobs - np.float32(np.log(1.1)))
    ratio = gradient(learner_of(**LINEAR), batch)
    weight = gradient(learner_of(**LINEAR, recompute_old_logprobs=True), batch)
    assert largest_difference(ratio, weight) < 1e-5
    assert largest(ratio) > 1e-2


def test_top_entropy_mask_is_global_over_micro_batches(learner_of: Any) -> None:
    batch = make_batch()
    whole = gradient(learner_of(**LINEAR, loss=LossOptions(top_entropy_fraction=0.3)), batch)
    cut = gradient(learner_of(**LINEAR, loss=LossOptions(top_entropy_fraction=0.3), micro_batch_tokens=40), batch)
    everything = gradient(learner_of(**LINEAR), batch)
    assert largest_difference(whole, cut) < 1e-5
    assert largest_difference(whole, everything) > 1e-3


def test_learning_rate_follows_the_schedule(learner_of: Any) -> None:
    learner = learner_of(lr_schedule="linear", warmup_steps=2, max_steps=6, learning_rate=1e-3)
    rates = [learner.train_step(make_batch(step)).metrics["optim/learning_rate"] for step in range(4)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3 * 2 / 3])


def test_weights_come_by_checkpoint_names_with_the_tied_head(learner_of: Any, model_path: str) -> None:
    from safetensors.torch import load_file

    learner = learner_of()
    weights = weights_of(learner)
    saved = load_file(Path(model_path) / "model.safetensors")
    assert set(weights) == set(saved) | {"lm_head.weight"}
    assert all(torch.equal(weights[name], saved[name]) for name in saved)
    assert torch.equal(weights["lm_head.weight"], saved["model.embed_tokens.weight"])
    assert {tensor.dtype for _, tensor in learner.iter_weights(torch.bfloat16)} == {torch.bfloat16}


def test_saved_model_is_loaded_by_transformers(learner_of: Any, tmp_path: Path) -> None:
    learner = learner_of()
    learner.train_step(make_batch())
    learner.save_hf(tmp_path)
    expected = weights_of(learner)
    saved = load_plain(str(tmp_path)).state_dict()
    assert largest_difference({name: saved[name] for name in expected}, expected) == 0.0


def test_bfloat16_trains_with_float32_master_weights(learner_of: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    learner = learner_of(dtype="bfloat16", learning_rate=1e-5)
    learner.save(tmp_path / "before")
    for step in range(2):
        assert not learner.train_step(make_batch(step)).skipped
    learner.save(tmp_path / "after")
    first, second = (load_file(tmp_path / at / "optimizer.safetensors") for at in ("before", "after"))
    name = "master/model.norm.weight"
    moved = (second[name] - first[name]).abs()
    assert first[name].dtype == torch.float32
    # Two steps of 1e-5 around 1.0 are far below the 0.0078 that separates bfloat16 numbers there.
    assert 0 < moved.max() <= 2.1e-5


def test_gradient_checkpointing_gives_the_same_gradient(learner_of: Any) -> None:
    batch = make_batch()
    plain = gradient(learner_of(**LINEAR), batch)
    checkpointed = gradient(learner_of(**LINEAR, gradient_checkpointing=True), batch)
    assert largest_difference(plain, checkpointed) < 1e-6


def test_broken_columns_are_refused(learner_of: Any) -> None:
    learner, batch = learner_of(), make_batch()
    with pytest.raises(ValueError, match="do not match prompt and completion lengths"):
        learner.train_step(dataclasses.replace(batch, token_ids=batch.token_ids[:-1]))
    with pytest.raises(ValueError, match="behavior log-probs"):
        learner.train_step(dataclasses.replace(batch, behavior_logprobs=batch.behavior_logprobs[:-1]))


def test_a_missing_model_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load"):
        DeepSpeedLearner(learner_settings(model_path=str(tmp_path)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kl_controller": "ziegler"}, "kl.coef, which is 0"),
        ({"kl_controller": "ziegler", "kl_coef": 0.1, "kl_controller_target": 0.0}, "controller_target"),
        ({"offload_optimizer": True}, "needs zero_stage 1, 2 or 3"),
        ({"offload_parameters": True, "zero_stage": 2}, "needs zero_stage 3"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"minibatch_size": 0}, "minibatch_size"),
        ({"use_peft": True, "reference": ReferenceSettings(mode="ema")}, "only an adapter is trained"),
        ({"zero_stage": 4}, "zero_stage"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learner_settings(model_path="unused", **changes)
