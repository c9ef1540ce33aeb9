"""The reference policy of the KL term: static, an exponential moving average, or copied periodically.

With LoRA there is no second model: the reference is the trained model with its adapters switched off.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from bolt_ray.core.errors import CheckpointError, ModelError
from bolt_ray.engines.learner.deepspeed import inference_config, initialize_engine, partitioned_loading
from bolt_ray.engines.learner.model import PolicyModule, load_causal_lm
from bolt_ray.engines.learner.packing import TokenColumns
from bolt_ray.engines.learner.passes import Column, PassPlanner, score_columns
from bolt_ray.engines.learner.settings import LearnerSettings, ReferenceSettings
from bolt_ray.engines.learner.weights import gathered, group_parameters, is_partitioned


class Reference(Protocol):
    """Interface of a reference policy."""

    def logprobs(self, columns: TokenColumns, indices: NDArray[np.int64], *, planner: PassPlanner) -> Column:
        """float32 [Σ completion_lengths] log-probs; 0 for sequences not in ``indices``, int64 [k]. Collective."""
        ...

    def after_update(self, policy_version: int) -> None:
        """Follow the policy, which has just become ``policy_version``. Collective."""
        ...

    def iter_state(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors a checkpoint must hold; none for a reference that never changes. Collective."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what ``iter_state`` gave. Collective.

        Raises:
            CheckpointError: a weight is missing.
        """
        ...


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

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to load."""


@contextmanager
def adapters_off(peft_model: Any) -> Iterator[None]:
    """The base model inside the context; ``requires_grad`` of every parameter is restored."""
    wanted = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
    with peft_model.disable_adapter():
        yield
    for parameter in wanted:
        parameter.requires_grad_(True)


class ModelReference:
    """A second model: frozen, or following the policy.

    ``ema``: ref ← α·ref + (1 − α)·π after every update, kept in float32 (in bfloat16 most of a step of 1 − α would
    be rounded away). ``periodic``: ref ← π after every ``update_freq``-th update.
    """

    def __init__(
        self,
        *,
        call: Any,
        model: nn.Module,
        policy: nn.Module,
        settings: ReferenceSettings,
        device: torch.device,
    ) -> None:
        """
        Args:
            call: the module, or the DeepSpeed engine that shards it.
            model: the ``transformers`` model in it.
            policy: the ``transformers`` model that is trained.

        Raises:
            ModelError: a reference that is to follow the policy has another architecture.
        """
        self._call, self._model, self._policy = call, model, policy
        self._settings, self._device = settings, device
        ours, theirs = ([name for name, _ in m.named_parameters()] for m in (model, policy))
        if settings.mode != "static" and ours != theirs:
            raise ModelError(
                f"reference.path {settings.path!r} is another kind of model than the policy, so it cannot follow "
                "it; use reference.mode static"
            )

    def logprobs(self, columns: TokenColumns, indices: NDArray[np.int64], *, planner: PassPlanner) -> Column:
        return score_columns(self._call, columns, indices, planner=planner, device=self._device)[0]

    def after_update(self, policy_version: int) -> None:
        if self._settings.mode == "ema":
            self._follow(1.0 - self._settings.ema_alpha)
        elif self._settings.mode == "periodic" and policy_version % self._settings.update_freq == 0:
            self._follow(1.0)

    @torch.no_grad()
    def _follow(self, step: float) -> None:
        references = dict(self._model.named_parameters())
        for group in group_parameters(self._policy.named_parameters()):
            if is_partitioned(references.values()):
                # Both are cut the same way, so each rank follows with its own part.
                pairs = [(references[name].ds_tensor.data, p.ds_tensor.data) for name, p in group]  # type: ignore[attr-defined]
                _move(pairs, step)
                continue
            with gathered([parameter for _, parameter in group]):
                _move([(references[name].data, parameter.data) for name, parameter in group], step)

    @torch.no_grad()
    def iter_state(self) -> Iterator[tuple[str, Tensor]]:
        if self._settings.mode == "static":
            return
        for name, parameter in self._model.named_parameters():
            with gathered([parameter]):
                yield name, parameter.data

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        if self._settings.mode == "static":
            return
        for name, parameter in self._model.named_parameters():
            if name not in tensors:
                raise CheckpointError(
                    f"the checkpoint holds no reference weight {name!r}: it was saved with reference.mode static"
                )
            with gathered([parameter], modifier_rank=0):
                parameter.data.copy_(tensors[name])


def _move(pairs: list[tuple[Tensor, Tensor]], step: float) -> None:
    """Move each first tensor towards the second: all the way with step 1."""
    for reference, policy in pairs:
        if step == 1.0:
            reference.copy_(policy)
        else:
            reference.lerp_(policy.to(reference), step)


def make_reference(
    settings: LearnerSettings,
    *,
    engine: Any,
    module: PolicyModule,
    peft_model: Any,
    stage: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Reference | None:
    """The reference these settings need; None, and no model loaded, if the loss does not use it.

    Under ZeRO-3 it is sharded over the ranks as the policy is, unless it is to live on the CPU.

    Args:
        engine, module: the policy's engine, and the module in it.
        peft_model: the PEFT model around the policy; None without LoRA.
        stage: the policy's ZeRO stage.
        dtype, device: the policy's.
    """
    if not settings.needs_reference:
        return None
    if peft_model is not None:
        return AdapterOffReference(engine, peft_model, device=device)
    where = torch.device("cpu") if settings.reference.device == "cpu" else device
    wanted = torch.float32 if settings.reference.mode == "ema" or where.type == "cpu" else dtype
    shard = stage == 3 and settings.reference.device == "auto"
    config = inference_config(dtype=wanted, world_size=dist.get_world_size()) if shard else None
    with partitioned_loading(config):
        model: Any = load_causal_lm(
            settings.reference.path or settings.model_path,
            dtype=wanted,
            attention=settings.model.attention,
            trust_remote_code=settings.model.trust_remote_code,
        )
    frozen = PolicyModule(model, settings=settings, trained=False).requires_grad_(False)
    call: Any = frozen.to(where) if config is None else initialize_engine(frozen, parameters=None, config=config)
    call.eval()
    return ModelReference(call=call, model=model, policy=module.model, settings=settings.reference, device=where)
