"""The policy losses by name. A new one is a function in ``surrogates`` and a line here; one's own needs neither:
``loss.type: file.py:function``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bolt_ray.core.plugins import is_reference
from bolt_ray.core.settings import SettingError, nearest_hint

AGGREGATIONS = ("sequence_mean", "token_mean", "local_token_mean", "fixed_length")
"""How token losses become one number; see ``losses.aggregation``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossType:
    """A policy loss.

    Attributes:
        surrogate: name of the function in ``losses.surrogates``, or ``file.py:function`` of a user's own.
        aggregation: one of ``AGGREGATIONS``, where the settings name none.
        clip_low, clip_high: clip range of its authors, where the settings give none.
        clips: built on min(rA, clip(r)A): only these know ``delta`` and ``dual_clip``.
        per_sequence: its ratio is one for a sequence, the geometric mean of its tokens'.
        own_old_policy: π_old must be the learner's, and what the generator differs by the correction's: the generator's
            log-probs are rounded differently, enough to clip most sequences of gspo, and reinforce has no ratio at all.
    """

    surrogate: str
    aggregation: str
    clip_low: float = 0.2
    clip_high: float = 0.28
    clips: bool = False
    per_sequence: bool = False
    own_old_policy: bool = False


LOSSES: Mapping[str, LossType] = {
    "grpo": LossType(surrogate="clipped", aggregation="sequence_mean", clip_high=0.2, clips=True),
    "dapo": LossType(surrogate="clipped", aggregation="token_mean", clips=True),
    "bnpo": LossType(surrogate="clipped", aggregation="local_token_mean", clips=True),
    "dr_grpo": LossType(surrogate="clipped", aggregation="fixed_length", clips=True),
    "gspo": LossType(
        surrogate="gspo",
        aggregation="sequence_mean",
        clip_low=3e-4,
        clip_high=4e-4,
        clips=True,
        per_sequence=True,
        own_old_policy=True,
    ),
    "cispo": LossType(surrogate="cispo", aggregation="token_mean"),
    "sapo": LossType(surrogate="sapo", aggregation="sequence_mean"),
    "reinforce": LossType(surrogate="reinforce", aggregation="token_mean", own_old_policy=True),
}


def loss_type(name: str) -> LossType:
    """The loss called ``name``, or a user's own, whose tokens all count alike unless told otherwise.

    Raises:
        SettingError: unknown; names the nearest.
    """
    if is_reference(name):
        return LossType(surrogate=name, aggregation="token_mean")
    if name not in LOSSES:
        raise SettingError(
            "type",
            f"{name!r} is no loss{nearest_hint(name, LOSSES)}; there are {', '.join(LOSSES)}, "
            "or file.py:function for one of your own",
        )
    return LOSSES[name]
