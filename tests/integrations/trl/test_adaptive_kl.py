"""The adaptive KL term inside TRL's loss: its gradient is that of the method, and β follows the rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from support.trl_runs import Poison, rows, trainer
from torch import Tensor

from bolt_ray.integrations.trl import BoltGRPOTrainer

BETA = 0.3


class WithPolicyMovedAway(BoltGRPOTrainer):
    """The reference is far enough from the policy to tell the methods apart, and there is no advantage."""

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        output = super()._generate_and_score_completions(inputs)
        shift = torch.linspace(-1.5, 0.5, output["ref_per_token_logps"].shape[1])
        output["ref_per_token_logps"] = output["ref_per_token_logps"] + shift
        output["advantages"] = torch.zeros_like(output["advantages"])
        output["completion_mask"][0, 3:] = 0
        return output


def by_hand(method: str, loss_type: str, logps: Tensor, inputs: dict[str, Tensor], *, longest: int) -> Tensor:
    """β times the method's term, written out once more."""
    mask = inputs["completion_mask"].float()
    lengths = mask.sum(1)
    k2 = (inputs["ref_per_token_logps"] - logps).square() / 2

    def shape(k: Tensor) -> Tensor:
        if "clip" in method:
            return k.clamp(max=0.4)
        return torch.sigmoid(k - 0.2) * k if "sigmoid" in method else k

    if "length_normalized" in method:
        return BETA * shape((k2 * mask).sum(1) / lengths).mean()
    summed = (shape(k2) * mask).sum(1)
    if loss_type == "grpo":
        return BETA * (summed / lengths).mean()
    if loss_type == "dr_grpo":
        return BETA * summed.sum() / (len(lengths) * longest)
    if loss_type == "luspo":
        return BETA * summed.mean()
    return BETA * summed.sum() / mask.sum()


def gradient(model: Any, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    ("method", "loss_type"),
    [
        ("clip", "dapo"),
        ("clip", "grpo"),
        ("sigmoid", "dapo"),
        ("sigmoid+dynamic", "dr_grpo"),
        ("length_normalized", "dapo"),
        ("length_normalized+clip", "grpo"),
        ("length_normalized+sigmoid+dynamic", "bnpo"),
        ("clip", "bnpo"),
        ("clip", "luspo"),
        ("clip", "cispo"),
    ],
)
def test_the_gradient_is_that_of_the_method(tmp_path: Path, tiny_model: Path, method: str, loss_type: str) -> None:
    """Without an advantage the policy's own term is 0; what is left is the KL's."""
    run = trainer(
        tiny_model,
        tmp_path,
        kind=WithPolicyMovedAway,
        beta=BETA,
        kl_adaptation_method=method,
        kl_clip_threshold=0.4,
        kl_target=0.2,
        loss_type=loss_type,
        importance_sampling_level="sequence" if loss_type == "luspo" else "token",
    )
    run.current_gradient_accumulation_steps = 1
    run.model.train()
    inputs = run._generate_and_score_completions(list(run.train_dataset.select(range(8))))
    inputs["num_items_in_batch"] = inputs["completion_mask"].sum()
    found = gradient(run.model, run.compute_loss(run.model, inputs))
    logps = run._get_per_token_logps_and_entropies(
        run.model,
        torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
        torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
        inputs["completion_ids"].shape[1],
    )[0]
    wanted = gradient(run.model, by_hand(method, loss_type, logps, inputs, longest=run.max_completion_length))
    assert wanted.abs().max() > 1e-4
    assert torch.allclose(found, wanted, atol=1e-6, rtol=1e-4)
    assert run.beta == BETA
    metrics = run._bolt_kl.take(run)
    assert metrics["adaptive_kl/raw_kl"] > 0.1


def test_beta_falls_while_rewards_are_high(tmp_path: Path, tiny_model: Path) -> None:
    """Ten rewards above the threshold, then β is multiplied by .9 a step; the schedule ends it at beta_min."""
    run = trainer(
        tiny_model,
        tmp_path,
        reward=lambda prompts, **_: [0.9] * len(prompts),
        beta=0.04,
        kl_adaptation_method="dynamic",
        beta_min=0.01,
        beta_schedule_steps=12,
        max_steps=13,
    )
    run.train()
    seen = [each["adaptive_kl/current_beta"] for each in run.state.log_history if "adaptive_kl/current_beta" in each]
    assert seen == pytest.approx([0.04] * 9 + [0.036, 0.0324, 0.02916, 0.01])
    assert run.beta == pytest.approx(0.01)
    # TRL's own term is left as it is, and reported under its own name too.
    assert run.state.log_history[1]["kl"] > 0.0
    assert run.state.log_history[1]["adaptive_kl/raw_kl"] > 0.0
    assert "adaptive_kl/adapted_kl" not in run.state.log_history[1]


def test_a_skipped_step_does_not_reach_the_controller(tmp_path: Path, tiny_model: Path) -> None:
    run = trainer(
        tiny_model, tmp_path, beta=0.04, kl_adaptation_method="clip+dynamic", callbacks=[Poison(0)], max_steps=2
    )
    run.train()
    assert run._bolt_kl.controller.state_dict()["step"] == 1


def test_the_controller_sees_the_rewards_of_the_whole_step(tmp_path: Path, tiny_model: Path) -> None:
    """Two generation batches make one step, all right and all wrong; the third step has no reward at all."""
    calls: list[int] = []

    def by_call(prompts: list[str], **_: Any) -> list[float | None]:
        calls.append(len(calls))
        return [float(calls[-1] % 2) if calls[-1] < 4 else None] * len(prompts)

    run = trainer(
        tiny_model,
        tmp_path,
        reward=by_call,
        data=Dataset.from_list(rows(96)),
        beta=0.04,
        kl_adaptation_method="dynamic",
        gradient_accumulation_steps=2,
        steps_per_generation=1,
    )
    run.train()
    state = run._bolt_kl.controller.state_dict()
    assert (len(calls), state["rewards"], state["step"]) == (6, [0.5, 0.5], 2)


def test_an_evaluation_has_the_shaped_term_and_is_not_counted(tmp_path: Path, tiny_model: Path) -> None:
    """Its loss stays comparable with that of the training; the advantages of an evaluation at K = 1 are 0."""
    run = trainer(
        tiny_model,
        tmp_path,
        beta=1.0,
        kl_adaptation_method="sigmoid",
        max_steps=1,
        per_device_eval_batch_size=8,
        eval_dataset=Dataset.from_list(rows(8)),
    )
    run.train()
    assert run.evaluate()["eval_loss"] > 1e-6
    assert run._bolt_kl.take(run) == run._bolt_kl.controller.metrics()
    assert run.beta == 1.0
