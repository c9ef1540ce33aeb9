"""The shapes a user's reward function may have, recognized by the names of its parameters. Pure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bolt_ray.rewards.function_calls import (
    Call,
    Parameters,
    call_openrlhf,
    call_own,
    call_own_batch,
    call_trl,
    call_verl,
)
from bolt_ray.rewards.protocol import RewardInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One shape.

    Attributes:
        owner: whose it is.
        form: the parameters of such a function.
        returns: what it returns.
        whole_batch: it is called with many completions at once, else with one.
        given: the names it is given; () where that is nothing, or only the rows can tell.
        prepare: the call for some completions, with the config's ``options``.
    """

    owner: str
    form: str
    returns: str
    whole_batch: bool
    given: tuple[str, ...] = ()
    prepare: Callable[[Sequence[RewardInput], Parameters, Mapping[str, Any]], Call]

    def __str__(self) -> str:
        return f"{self.owner}'s shape {self.form}"


OWN = Shape(
    owner="bolt-ray",
    form="(item, **options)",
    returns="a number, or None for no verdict; with `batched: true` a list for a list",
    whole_batch=False,
    prepare=call_own,
)
OWN_BATCH = replace(
    OWN, form="(items, **options)", returns="a list of numbers", whole_batch=True, prepare=call_own_batch
)
TRL = Shape(
    owner="TRL",
    form="(completions, **columns)",
    returns="a list of numbers, None where it does not apply",
    whole_batch=True,
    prepare=call_trl,
)
VERL = Shape(
    owner="verl",
    form="(data_source, solution_str, ground_truth, extra_info)",
    returns="a number, or a mapping with `score`",
    whole_batch=False,
    given=("data_source", "solution_str", "ground_truth", "extra_info"),
    prepare=call_verl,
)
OPENRLHF = Shape(
    owner="OpenRLHF",
    form="(queries, prompts, labels)",
    returns="a list or tensor, or a mapping with `rewards`",
    whole_batch=False,
    given=("queries", "prompts", "labels"),
    prepare=call_openrlhf,
)
SHAPES = (OWN, TRL, VERL, OPENRLHF)


def parameters_of(signature: inspect.Signature) -> Parameters:
    """What a function of this signature takes by name."""
    by_name = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return Parameters(
        names=frozenset(by_name),
        required=frozenset(name for name, parameter in by_name.items() if parameter.default is parameter.empty),
        any_name=any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()),
    )


def shape_of(signature: inspect.Signature, *, options: Mapping[str, Any], batched: bool) -> Shape:
    """The shape of a function.

    Args:
        options: what the config has it called with besides.
        batched: one of bolt-ray's own shape takes a list.

    Raises:
        ValueError: it has none, or needs what nobody gives it; lists the shapes.
    """
    parameters = parameters_of(signature)
    shape = _by_names(parameters, signature) or (OWN_BATCH if batched else OWN)
    # Whatever else a function of TRL's shape asks for is a column.
    given = dict.fromkeys(parameters.required if shape is TRL else shape.given)
    try:
        signature.bind(*([None] if shape in (OWN, OWN_BATCH) else []), **{**parameters.taken(given), **options})
    except TypeError as problem:
        raise ValueError(
            f"a reward function cannot have the parameters {signature}; taken for {shape}: {problem}. `options` gives "
            "arguments of your own. There are four shapes:"
            + "".join(f"\n  {known.form} returns {known.returns}   ({known.owner}'s)" for known in SHAPES)
        ) from None
    return shape


def _by_names(parameters: Parameters, signature: inspect.Signature) -> Shape | None:
    names, first = parameters.names, next(iter(signature.parameters.values()), None)
    if first is not None and "RewardInput" in str(first.annotation):
        return None
    if "queries" in names:
        return OPENRLHF
    if "solution_str" in names:
        return VERL
    if names & {"completions", "completion_ids"} or ("prompts" in names and parameters.any_name):
        return TRL
    return None
