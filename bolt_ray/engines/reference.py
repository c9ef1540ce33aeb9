"""The reference policy of the KL term: static, following by moving average, or copied now and then.

With LoRA there is no second model: the reference is the base model, which the trained one becomes while its
adapters are switched off.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bolt_ray.core.errors import CheckpointError, ModelError
from bolt_ray.engines.learner_passes import Column, PassPlanner, score_columns
from bolt_ray.engines.learner_settings import LearnerSettings
from bolt_ray.engines.learner_weights import gathered, group_parameters
from bolt_ray.engines.model_loading import PolicyModule, load_causal_lm
from bolt_ray.engines.packing import TokenColumns


class Reference(Protocol):
    """What the learner knows of a reference."""

    def logprobs(self, columns: TokenColumns, indices: NDArray[np.int64], *, planner: PassPlanner) -> Column:
        """float32 [Σ completion_lengths]; 0 for sequences not asked for. Collective."""
        ...

    def after_update(self, policy_version: int) -> None:
        """Follow the policy, which has just become ``policy_version``. Collective."""
        ...

    def iter_state(self) -> Iterator[tuple[str, Tensor]]:
        """What a checkpoint must keep: nothing for a reference that never changes. Collective."""
        ...

    def load_state(self, tensors: Any) -> None: ...


class AdapterOffReference:
    """The base model under a LoRA policy."""

    def __init__(self, engine: Any, peft_model: Any, *, device: torch.device) -> None:
        self._engine, self._peft_model, self._device = engine, peft_model, device

    def logprobs(self, columns: TokenColumns, indices: NDArray[np.int64], *, planner: PassPlanner) -> Column:
        with adapters_off(self._peft_model):
            return score_columns(self._engine, columns, indices, planner=planner, device=self._device)[0]

    def after_update(self, policy_version: int) -> None:
        """The base never changes."""

    def iter_state(self) -> Iterator[tuple[str, Tensor]]:
        return iter(())

    def load_state(self, tensors: Any) -> None:
        """Nothing to load."""


@contextmanager
def adapters_off(peft_model: Any) -> Iterator[None]:
    """The base model for the time of the context; whether parameters want gradients is left as it was."""
    wanted = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
    with peft_model.disable_adapter():
        yield
    for parameter in wanted:
        parameter.requires_grad_(True)


class ModelReference:
    """A second model: frozen, or following the policy.

    ``ema``: ref ← α·ref + (1 − α)·π after every update, accumulated in float32 (in bfloat16 a step of 1 − α
    would be rounded away). ``periodic``: ref ← π after every ``update_freq``-th update.
    """

    def __init__(self, module: PolicyModule, *, policy: nn.Module, settings: LearnerSettings, device: torch.device):
        self._settings = settings.reference
        self._module, self._policy, self._device = module, policy, device
        self._call: Any = module
        ours = [name for name, _ in module.model.named_parameters()]
        theirs = [name for name, _ in policy.named_parameters()]
        if self._settings.mode != "static" and ours != theirs:
            raise ModelError(
                f"reference.path {self._settings.path!r} is another kind of model than the policy, so it cannot "
                f"follow it; use reference.mode static"
            )

    def use_engine(self, engine: Any) -> None:
        """Call the model through a DeepSpeed engine that shards it (ZeRO-3)."""
        self._call = engine

    def logprobs(self, columns: TokenColumns, indices: NDArray[np.int64], *, planner: PassPlanner) -> Column:
        return score_columns(self._call, columns, indices, planner=planner, device=self._device)[0]

    @torch.no_grad()
    def after_update(self, policy_version: int) -> None:
        if self._settings.mode == "ema":
            self._follow(1.0 - self._settings.ema_alpha)
        elif self._settings.mode == "periodic" and policy_version % self._settings.update_freq == 0:
            self._follow(1.0)

    def _follow(self, step: float) -> None:
        pairs = zip(self._policy.named_parameters(), self._module.model.parameters(), strict=True)
        mine = {name: reference for (name, _), reference in pairs}
        for group in group_parameters(self._policy.named_parameters()):
            with gathered([parameter for _, parameter in group]):
                for name, parameter in group:
                    reference = mine[name].data
                    if step == 1.0:
                        reference.copy_(parameter.data)
                    else:
                        reference.lerp_(parameter.data.to(reference), step)

    def iter_state(self) -> Iterator[tuple[str, Tensor]]:
        if self._settings.mode != "static":
            for name, parameter in self._module.model.named_parameters():
                yield name, parameter.data

    @torch.no_grad()
    def load_state(self, tensors: Any) -> None:
        """Restore a reference that had followed the policy.

        Args:
            tensors: mapping from parameter name to tensor.

        Raises:
            CheckpointError: a tensor is missing.
        """
        if self._settings.mode == "static":
            return
        for name, parameter in self._module.model.named_parameters():
            if name not in tensors:
                raise CheckpointError(f"the checkpoint holds no reference weight {name!r}; it was saved without one")
            parameter.data.copy_(tensors[name])


def make_reference(
    settings: LearnerSettings,
    *,
    engine: Any,
    module: PolicyModule,
    peft_model: Any,
    dtype: torch.dtype,
    device: torch.device,
) -> Reference | None:
    """The reference these settings need; None, and nothing loaded, if nothing reads it."""
    if not settings.needs_reference:
        return None
    if peft_model is not None:
        return AdapterOffReference(engine, peft_model, device=device)
    where = torch.device("cpu") if settings.reference.device == "cpu" else device
    wanted = torch.float32 if settings.reference.mode == "ema" or where.type == "cpu" else dtype
    model: Any = load_causal_lm(
        settings.reference.path or settings.model_path,
        dtype=wanted,
        attention=settings.attention,
        trust_remote_code=settings.trust_remote_code,
    )
    frozen = PolicyModule(model, temperature=settings.temperature).to(where).requires_grad_(False)
    return ModelReference(frozen, policy=module.model, settings=settings, device=where)
