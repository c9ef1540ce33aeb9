"""A loss of the user's own, ``loss.type: file.py:function``: found, used, and refused when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bolt_ray.core.errors import ConfigError
from bolt_ray.core.losses import LossOptions, LossOutput, policy_loss

LOSSES = '''
import torch

def squared(tokens, options):
    """(d - A)² of each token; nothing is clipped."""
    loss = (tokens.log_ratio - tokens.advantages) ** 2
    return loss, torch.zeros_like(loss, dtype=torch.bool)

def capped(tokens, options):
    """min(d, clip_high), which takes the gradient where d is larger."""
    cut = tokens.log_ratio > options.clip_range[1]
    return tokens.log_ratio.clamp(max=options.clip_range[1]), cut

def total(tokens, options):
    return (tokens.ratio * tokens.advantages).sum(), tokens.ratio > 2

def one(tokens, options):
    return tokens.log_ratio
'''

OLD = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, 0.0, 0.0]], dtype=torch.float64)
DIFFERENCE = torch.tensor([[0.5, -1.0, 9.0], [2.0, 9.0, 9.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 0], [1, 0, 0]])
ADVANTAGES = torch.tensor([1.0, -0.5], dtype=torch.float64)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_losses.py"
    path.write_text(LOSSES, encoding="utf-8")
    return path


def loss_of(name: str, **options: object) -> tuple[LossOutput, torch.Tensor]:
    logprobs = (OLD + DIFFERENCE).requires_grad_()
    output = policy_loss(logprobs, OLD, ADVANTAGES, MASK, type=name, **options)  # type: ignore[arg-type]
    output.loss.backward()
    assert logprobs.grad is not None
    return output, logprobs.grad


def test_a_users_function_is_the_loss_of_every_active_token(file: Path) -> None:
    output, gradient = loss_of(f"{file}:squared")
    # (0.5 - 1)² + (-1 - 1)² + (2 + 0.5)² over 3 tokens: token_mean unless told otherwise.
    assert output.loss.item() == pytest.approx((0.25 + 4.0 + 6.25) / 3)
    torch.testing.assert_close(
        gradient, torch.tensor([[-1.0, -4.0, 0.0], [5.0, 0.0, 0.0]], dtype=torch.float64) / 3, rtol=1e-12, atol=0
    )
    assert output.metrics["clipped_tokens"].item() == 0


def test_it_takes_the_settings_of_every_loss(file: Path) -> None:
    output, gradient = loss_of(f"{file}:capped", aggregation="sequence_mean", clip_high=0.7)
    # (0.5 - 1)/2 and min(2, 0.7)/1, averaged over 2 sequences; the third token's gradient is cut.
    assert output.loss.item() == pytest.approx((-0.25 + 0.7) / 2)
    assert gradient[1, 0].item() == 0.0
    assert output.metrics["clipped_tokens"].item() == 1


@pytest.mark.parametrize("name", ["total", "one"])
def test_anything_but_one_number_per_token_is_refused(file: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"must return two tensors of shape \(3,\)"):
        loss_of(f"{file}:{name}")


def test_clipping_of_the_built_in_ratio_losses_is_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"dual_clip has no meaning for .*my_losses\.py:squared"):
        LossOptions(type=f"{file}:squared", dual_clip=3.0)


def test_what_is_not_there_is_named(file: Path) -> None:
    with pytest.raises(ValueError, match="has no 'square'; it has: capped, one, squared, total"):
        loss_of(f"{file}:square")
    with pytest.raises(ValueError, match=r"there is no file /nowhere/my\.py"):
        loss_of("/nowhere/my.py:loss")
