"""A learner's weights as unpartitioned tensors under their Hugging Face names, for every ZeRO stage."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bolt_ray.engines.learner.model import tie_of_embeddings

GROUP_BYTES = 256 * 2**20
"""Weights gathered at a time under ZeRO-3."""

_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")


def is_partitioned(parameters: Iterable[nn.Parameter]) -> bool:
    """True under ZeRO-3, where a rank holds only its part of each parameter."""
    return any(hasattr(parameter, "ds_id") for parameter in parameters)


def gathered(parameters: list[nn.Parameter], *, modifier_rank: int | None = None) -> AbstractContextManager[Any]:
    """Unpartitioned parameters inside the context; collective under ZeRO-3, without effect elsewhere."""
    if not is_partitioned(parameters):
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters

    context: AbstractContextManager[Any] = GatheredParameters(parameters, modifier_rank=modifier_rank)
    return context


def group_parameters(
    named: Iterable[tuple[str, nn.Parameter]], *, group_bytes: int = GROUP_BYTES
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Cut parameters into groups of about ``group_bytes`` that never split a layer.

    A layer stays whole because checkpoint names of mixture-of-experts models may need all its tensors together.
    """
    group: list[tuple[str, nn.Parameter]] = []
    size, layer = 0, None
    for name, parameter in named:
        match = _LAYER.search(name)
        this_layer = match.group(1) if match else name
        if group and size >= group_bytes and this_layer != layer:
            yield group
            group, size = [], 0
        group.append((name, parameter))
        size += int(getattr(parameter, "ds_numel", parameter.numel())) * parameter.element_size()
        layer = this_layer
    if group:
        yield group


@torch.no_grad()
def iter_named_weights(
    model: Any, *, dtype: torch.dtype | None = None, name_tied_output: bool = True
) -> Iterator[tuple[str, Tensor]]:
    """Every weight of a Hugging Face model, by its name in a checkpoint of that model.

    Collective under ZeRO-3: every rank must iterate to the end. A tensor is valid until the next one is asked for.
    A tied output layer is named too: a generator that keeps its own copy would otherwise keep a stale one.

    Args:
        model: the ``transformers`` model.
        dtype: to convert floating-point weights to; None leaves them as they are.
        name_tied_output: False leaves a tied output layer out, as checkpoint files do.
    """
    from transformers.core_model_loading import revert_weight_conversion

    tied = name_tied_output and tie_of_embeddings(model)
    embedding = model.get_input_embeddings().weight
    for group in group_parameters(model.named_parameters()):
        with gathered([parameter for _, parameter in group]):
            whole = {name: parameter.data for name, parameter in group}
            for name, tensor in revert_weight_conversion(model, whole).items():
                yield name, _cast(tensor, dtype)
            if tied and any(parameter is embedding for _, parameter in group):
                yield output_weight_name(model), _cast(embedding.data, dtype)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    persistent = set(model.state_dict().keys()) - parameters
    for name, buffer in model.named_buffers():
        if name in persistent:
            yield name, _cast(buffer, dtype)


def output_weight_name(model: Any) -> str:
    """Name of the output layer's weight, "lm_head.weight" nearly everywhere."""
    head = model.get_output_embeddings()
    return next(f"{name}.weight" for name, module in model.named_modules() if module is head)


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
