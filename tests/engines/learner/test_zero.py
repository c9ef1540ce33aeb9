"""ZeRO 0 to 3 on one and two ranks: the same gradient, the same weights, interchangeable checkpoints.

Gradients are read off one step with a huge Adam epsilon, where the update is learning_rate · gradient / epsilon.
They are of the order 0.1 here, and must agree to 2e-6: float32 sums in another order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from support.learner_cases import largest, largest_difference, make_batch, make_model, weights_of
from support.ranks import RankPool
from support.settings import learner_settings

from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.kl import KLOptions
from bolt_ray.core.losses import LossOptions

pytestmark = pytest.mark.slow

GRADIENT_TOLERANCE = 2e-6

SPLITS: list[dict[str, Any]] = [
    {"zero_stage": stage, "micro_batch_tokens": tokens, "packing": packing}
    for stage in (0, 1, 2, 3)
    for tokens, packing in ((400, True), (120, False), (44, True))  # 1, 2 to 3, and 4 or more micro-batches
] + [
    {"zero_stage": 2, "micro_batch_tokens": 60, "offload_optimizer": True},
    {"zero_stage": 3, "micro_batch_tokens": 60, "offload_optimizer": True, "offload_parameters": True},
]
"""Ways to cut one batch; the first is the reference on one rank."""


def gradients(rank: int, model: str, out: str) -> None:
    """Write the gradient and the loss of one batch for every split, on rank 0."""
    from bolt_ray.engines.learner.learner import DeepSpeedLearner

    for number, split in enumerate(SPLITS):
        settings = learner_settings(
            model_path=model,
            dtype="float32",
            learning_rate=1e4,
            adam_epsilon=1e4,
            max_grad_norm=1e9,
            loss=LossOptions(type="grpo", clip_high=0.2, entropy_coef=0.01, top_entropy_fraction=0.5),
            kl_coef=0.1,
            kl=KLOptions(adaptation=("length_normalized", "softplus")),
            recompute_old_logprobs=True,
            **split,
        )
        learner = DeepSpeedLearner(settings)
        before = weights_of(learner)
        report = learner.train_step(make_batch(inactive=(3,)))
        after = weights_of(learner)
        learner.close()
        if rank == 0:
            values = {name: before[name] - after[name] for name in before}
            result = (values, report.metrics["loss/total"], torch.from_numpy(report.logprobs_before))
            torch.save(result, f"{out}/{dist.get_world_size()}_{number}.pt")


def test_one_gradient_for_every_split(tmp_path: Path, two_ranks: RankPool) -> None:
    model = make_model(tmp_path / "model")
    gradients(0, model, str(tmp_path))
    two_ranks.run(gradients, model, str(tmp_path))
    reference, loss, known = torch.load(tmp_path / "1_0.pt", weights_only=True)
    assert largest(reference) > 0.05
    # The sequence that takes no part has no log-probs; every other one has, on any number of ranks.
    assert 0 < int(known.isnan().sum()) == int(make_batch(inactive=(3,)).completion_lengths[3])
    for ranks in (1, 2):
        for number, split in enumerate(SPLITS):
            got, got_loss, got_known = torch.load(tmp_path / f"{ranks}_{number}.pt", weights_only=True)
            assert largest_difference(got, reference) < GRADIENT_TOLERANCE, (ranks, split)
            assert got_loss == pytest.approx(loss, abs=1e-6), (ranks, split)
            torch.testing.assert_close(got_known, known, rtol=0, atol=1e-5, equal_nan=True, msg=f"{ranks} {split}")


def train_and_save(rank: int, model: str, out: str) -> None:
    """Three steps, a bad one, a checkpoint, and one more step, under every stage."""
    from bolt_ray.engines.learner.learner import DeepSpeedLearner

    for stage in (0, 1, 2, 3):
        learner = DeepSpeedLearner(_training(model, stage))
        for step in range(3):
            learner.train_step(make_batch(step))
        at_three = weights_of(learner)
        bad = make_batch(3)
        bad.advantages[2] = float("inf")
        assert learner.train_step(bad).skipped
        assert largest_difference(weights_of(learner), at_three) == 0.0
        name = f"{out}/{dist.get_world_size()}_{stage}"
        learner.save(f"{name}_state")
        learner.train_step(make_batch(4))
        at_four = weights_of(learner)
        learner.close()
        if rank == 0:
            torch.save((at_three, at_four), f"{name}.pt")


def resume(rank: int, model: str, out: str, cases: list[tuple[int, str]]) -> None:
    """Load checkpoints of another stage and world size, and make one more step from each."""
    from bolt_ray.engines.learner.learner import DeepSpeedLearner

    for stage, saved in cases:
        learner = DeepSpeedLearner(_training(model, stage))
        learner.load(f"{out}/{saved}_state")
        assert (learner.policy_version, learner.optimizer_steps, learner.counters.bad_total) == (3, 3, 1)
        loaded = weights_of(learner)
        learner.train_step(make_batch(4))
        trained = weights_of(learner)
        learner.close()
        if rank == 0:
            torch.save((loaded, trained), f"{out}/resumed_{saved}.pt")


def _training(model: str, stage: int) -> Any:

    return learner_settings(
        model_path=model, dtype="float32", learning_rate=1e-3, zero_stage=stage, micro_batch_tokens=100
    )


def test_stages_and_ranks_train_alike_and_resume_each_other(tmp_path: Path, two_ranks: RankPool) -> None:
    model = make_model(tmp_path / "model")
    train_and_save(0, model, str(tmp_path))
    two_ranks.run(train_and_save, model, str(tmp_path))
    three, four = torch.load(tmp_path / "1_0.pt", weights_only=True)
    for ranks in (1, 2):
        for stage in (0, 1, 2, 3):
            got = torch.load(tmp_path / f"{ranks}_{stage}.pt", weights_only=True)
            # Adam turns rounding into up to a step of learning_rate where a gradient is almost 0.
            assert largest_difference(got[0], three) < 2e-5, (ranks, stage)
            assert largest_difference(got[1], four) < 2e-5, (ranks, stage)

    # (stage to load into, ranks_stage that saved), by the ranks that load.
    by_one, by_two = [(0, "2_3"), (1, "2_2")], [(3, "1_0"), (2, "1_1")]
    resume(0, model, str(tmp_path), by_one)
    two_ranks.run(resume, model, str(tmp_path), by_two)
    for ranks, cases in ((1, by_one), (2, by_two)):
        for stage, saved in cases:
            loaded, trained = torch.load(tmp_path / f"resumed_{saved}.pt", weights_only=True)
            expected = torch.load(tmp_path / f"{saved}.pt", weights_only=True)
            assert largest_difference(loaded, expected[0]) == 0.0, (ranks, stage, saved)
            assert largest_difference(trained, expected[1]) < 2e-6, (ranks, stage, saved)


def test_resuming_on_the_same_ranks_is_exact(tmp_path: Path) -> None:
    from bolt_ray.engines.learner.learner import DeepSpeedLearner

    model = make_model(tmp_path / "model")
    for stage in (0, 2, 3):
        whole = DeepSpeedLearner(_training(model, stage))
        for step in range(2):
            whole.train_step(make_batch(step))
        whole.save(tmp_path / f"state{stage}")
        whole.train_step(make_batch(2))
        expected = weights_of(whole)
        whole.close()
        resumed = DeepSpeedLearner(_training(model, stage))
        resumed.load(tmp_path / f"state{stage}")
        resumed.train_step(make_batch(2))
        assert largest_difference(weights_of(resumed), expected) == 0.0
        resumed.close()


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    from bolt_ray.engines.learner.learner import DeepSpeedLearner

    learner = DeepSpeedLearner(_training(make_model(tmp_path / "model"), 0))
    with pytest.raises(CheckpointError, match="cannot be read"):
        learner.load(tmp_path / "nothing")
    learner.save(tmp_path / "state")
    state = tmp_path / "state" / "state.json"
    state.write_text(state.read_text(encoding="utf-8").replace('"format": 1', '"format": 9'), encoding="utf-8")
    with pytest.raises(CheckpointError, match="format 9"):
        learner.load(tmp_path / "state")
    learner.save(tmp_path / "state")
    torn = tmp_path / "state" / "optimizer.safetensors"
    torn.write_bytes(torn.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        learner.load(tmp_path / "state")
    learner.close()
    other = DeepSpeedLearner(_training(make_model(tmp_path / "other", vocabulary=60), 0))
    other.save(tmp_path / "other_state")
    other.close()
    learner = DeepSpeedLearner(_training(str(tmp_path / "model"), 0))
    with pytest.raises(CheckpointError, match="another model"):
        learner.load(tmp_path / "other_state")
    learner.close()
