"""Agreement with TRL's own GRPO loss, value and gradient, over random batches.

``GRPOTrainer._compute_loss`` is called on a bare namespace that holds the settings it reads. Every sequence
has an active token: TRL counts fully masked sequences in its denominators, this project does not.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bolt_ray.core.kl import KLOptions
from bolt_ray.core.losses import entropy_threshold, policy_loss, top_entropy_mask

pytestmark = pytest.mark.slow

SHARED_TYPES = ("grpo", "dapo", "bnpo", "dr_grpo", "gspo", "cispo", "sapo")
CASES_PER_TYPE = 1000


def draw_case(loss_type: str, seed: int) -> dict[str, Any]:
    """Settings and tensors of one random case; float64, so that agreement can be asked to 1e-10."""
    rng = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=rng))

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))

    batch, width = integer(1, 6), integer(1, 12)
    lengths = torch.randint(1, width + 1, (batch, 1), generator=rng)
    mask = torch.arange(width) < lengths
    holes = torch.rand(batch, width, generator=rng) < 0.15  # as a tool's tokens would make
    holes[:, 0] = False
    shape = (batch, width)
    logprobs = -torch.rand(shape, generator=rng, dtype=torch.float64) * 4
    low = uniform(0.05, 0.3)
    clipped_type = loss_type in ("grpo", "dapo", "bnpo", "dr_grpo", "gspo")
    return {
        "logprobs": logprobs,
        "old": logprobs + uniform(0.0, 0.8) * torch.randn(shape, generator=rng, dtype=torch.float64),
        "ref": logprobs + uniform(0.0, 0.8) * torch.randn(shape, generator=rng, dtype=torch.float64),
        "entropy": torch.rand(shape, generator=rng, dtype=torch.float64) * 3,
        "weights": torch.rand(shape, generator=rng, dtype=torch.float64) * 2,
        "advantages": torch.randn(batch, generator=rng, dtype=torch.float64),
        "mask": mask & ~holes,
        "clip_low": low,
        "clip_high": low + uniform(0.0, 0.2),
        "delta": uniform(1.6, 3.0) if clipped_type and integer(0, 1) else None,
        "cispo_max": uniform(1.0, 5.0),
        # Sixteenths: TRL rounds the temperatures to float32.
        "sapo": (integer(8, 32) / 16, integer(8, 32) / 16),
        "beta": uniform(0.01, 0.5) if integer(0, 1) else 0.0,
        # TRL multiplies the KL by gspo's sequence ratio, this project by the token's own: not comparable.
        "unbiased": bool(integer(0, 1)) and loss_type != "gspo",
        "corrected": bool(integer(0, 1)),
        "entropy_coef": uniform(0.001, 0.1) if integer(0, 1) else 0.0,
        "top_fraction": uniform(0.2, 0.9) if integer(0, 1) else 1.0,
        "max_length": width + integer(0, 8),
    }


def trl_trainer(case: dict[str, Any], loss_type: str, logprobs: Tensor, entropy: Tensor) -> SimpleNamespace:
    from trl.trainer.grpo_trainer import GRPOTrainer

    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (logprobs, entropy, None),
        aux_loss_enabled=False,
        top_entropy_quantile=case["top_fraction"],
        off_policy_mask_threshold=None,
        importance_sampling_level="sequence" if loss_type == "gspo" else "token",
        loss_type="grpo" if loss_type == "gspo" else loss_type,
        beta=case["beta"],
        epsilon_low=case["clip_low"],
        epsilon_high=case["cispo_max"] if loss_type == "cispo" else case["clip_high"],
        args=SimpleNamespace(
            delta=case["delta"],
            use_bias_correction_kl=case["unbiased"],
            sapo_temperature_pos=case["sapo"][0],
            sapo_temperature_neg=case["sapo"][1],
            steps_per_generation=1,
        ),
        use_vllm=case["corrected"],
        vllm_importance_sampling_correction=True,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=case["max_length"],
        accelerator=SimpleNamespace(
            num_processes=1,
            sync_gradients=True,
            gather=lambda values: values,
            reduce=lambda values, reduction: values,
            pad_across_processes=lambda values, dim, pad_index: values,
        ),
        _entropy_bonus_enabled=case["entropy_coef"] != 0.0,
        use_adaptive_entropy=False,
        entropy_coef=case["entropy_coef"],
        _metrics={"train": defaultdict(list)},
    )
    trainer.get_high_entropy_mask = lambda *args: GRPOTrainer.get_high_entropy_mask(trainer, *args)
    return trainer


def trl_loss(case: dict[str, Any], loss_type: str, logprobs: Tensor, entropy: Tensor) -> Tensor:
    from trl.trainer.grpo_trainer import GRPOTrainer

    mask = case["mask"].long()
    ids = torch.zeros_like(mask)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1] + 1,
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": case["advantages"],
        "old_per_token_logps": case["old"],
        "ref_per_token_logps": case["ref"],
        "importance_sampling_ratio": case["weights"],
        "num_items_in_batch": mask.sum(),
    }
    trainer = trl_trainer(case, loss_type, logprobs, entropy)
    loss: Tensor = GRPOTrainer._compute_loss(trainer, None, inputs)
    return loss


def our_loss(case: dict[str, Any], loss_type: str, logprobs: Tensor, entropy: Tensor) -> Tensor:
    chosen = None
    if case["top_fraction"] < 1.0:
        # TRL takes the threshold in float32.
        threshold = entropy_threshold(entropy[case["mask"]].float(), case["top_fraction"])
        chosen = top_entropy_mask(entropy, case["mask"], threshold)
    return policy_loss(
        logprobs,
        case["old"],
        case["advantages"],
        case["mask"],
        type=loss_type,
        clip_low=case["clip_low"],
        clip_high=case["clip_high"],
        max_completion_tokens=case["max_length"],
        cispo_max=case["cispo_max"],
        delta=case["delta"],
        sapo_tau_positive=case["sapo"][0],
        sapo_tau_negative=case["sapo"][1],
        entropy=entropy,
        entropy_coef=case["entropy_coef"],
        top_entropy_mask=chosen,
        correction_weights=case["weights"] if case["corrected"] else None,
        ref_logprobs=case["ref"],
        kl_coef=case["beta"],
        kl_options=KLOptions(estimator="k3", unbiased=case["unbiased"]),
    ).loss


@pytest.mark.parametrize("loss_type", SHARED_TYPES)
def test_loss_and_gradient_agree_with_trl(loss_type: str) -> None:
    for seed in range(CASES_PER_TYPE):
        case = draw_case(loss_type, seed)
        losses, gradients = [], []
        for compute in (trl_loss, our_loss):
            logprobs = case["logprobs"].clone().requires_grad_()
            entropy = case["entropy"] * logprobs.exp()  # so that the bonus has a gradient in the same leaf
            loss = compute(case, loss_type, logprobs, entropy)
            loss.backward()
            losses.append(loss.item())
            gradients.append(logprobs.grad)
        assert losses[1] == pytest.approx(losses[0], rel=1e-10, abs=1e-12), f"{loss_type}, seed {seed}"
        torch.testing.assert_close(
            gradients[1], gradients[0], rtol=1e-9, atol=1e-12, msg=f"gradient of {loss_type}, seed {seed}"
        )
