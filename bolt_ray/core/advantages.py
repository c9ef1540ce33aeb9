"""Advantages over the global batch, before it is cut into ranks and micro-batches.

    rewards ─scale_rewards─▶ r̃ ─baseline─▶ A ─normalize─▶ ─clip─▶ advantages

Everything here is numpy in float64; the result is float32. Sequences that are not active (unscored, masked as
overlong) are left out of every statistic and get the advantage 0.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import AdvantageInputs
from bolt_ray.core.settings import Settings, require_choice, setting

declare_metrics(
    {
        "advantage/mean": ("reward", "mean advantage before normalizing"),
        "advantage/std": ("reward", "standard deviation of the advantages before normalizing"),
        "advantage/abs_mean": ("reward", "mean absolute advantage before normalizing"),
        "advantage/clipped_fraction": ("share of completions", "normalized advantages cut by advantage.clip"),
        "advantage/singletons": (
            "completions",
            "completions alone in their group, whose advantage is reward - v̂ instead",
        ),
        "advantage/zero_variance_groups": ("groups", "groups of two or more whose rewards are all equal"),
        "reward/zero_std_fraction": ("share of groups", "groups of two or more whose rewards are all equal"),
    }
)

BASELINES = ("tracker", "group", "rloo", "loo_posterior", "batch")
CENTERED = ("group", "rloo")
"""Baselines whose advantages have the mean 0 in each group: centered again, a group without spread would get some."""
NORMALIZATIONS = ("token", "batch", "group", "none")

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_EPSILON = 1e-8
_MIN_STD = 0.05
"""Advantages closer together than this are rounding or luck, and are not blown up to unit size."""
_GROUP_EPSILON = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageOutput:
    """Advantages of one step, and counts of its degenerate groups.

    Attributes:
        advantages: float32 [B]; 0 where inactive.
        metrics: ``advantage/*`` numbers, of the advantages before normalizing.
        singletons: active sequences alone in their group, which fell back to r̃ − v̂ (``group``, ``rloo``
            and ``loo_posterior``; always 0 with the others).
        zero_variance_groups: groups of two or more active sequences with one and the same reward; 0 without
            ``group_ids``.
    """

    advantages: NDArray[np.float32]
    metrics: dict[str, float]
    singletons: int
    zero_variance_groups: int


def scale_rewards(rewards: ArrayLike, low: float = 0.0, high: float = 1.0, *, bounded: bool = True) -> FloatArray:
    """r̃ = clip((r − low)/(high − low), 0, 1), float64 of the shape of ``rewards``.

    The only scaling of rewards: baseline, advantage and curriculum all see r̃. ``bounded=False`` is for advantages
    against a group, which need no bounds.

    Raises:
        ValueError: low is not below high, or a reward is NaN or infinite.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"reward_range needs two finite numbers in ascending order, got [{low}, {high}]")
    raw = np.asarray(rewards, dtype=np.float64)
    if not np.isfinite(raw).all():
        raise ValueError("a reward is NaN or infinite; an unscored completion is no evidence, leave it out")
    scaled = (raw - low) / (high - low)
    return np.clip(scaled, 0.0, 1.0) if bounded else scaled


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvantageOptions(Settings):
    """``advantage:`` - how a reward becomes an advantage.

    Raises:
        SettingError: an unknown name or a clip that is not positive (a ValueError).
    """

    baseline: str = setting(
        "tracker",
        "what is subtracted from the reward: the prompt's persistent v̂ (tracker), the mean of its group (group, GRPO), "
        "of the group's others (rloo), the posterior of v̂ with the group's others (loo_posterior), or the mean of the "
        "whole batch (batch)",
        choices=lambda: list(BASELINES),
    )
    normalize: str = setting(
        "token",
        "token: center and scale by length-weighted statistics (SPO++); batch: by statistics over sequences (SPO); "
        "group: divide by the group's standard deviation (GRPO); none",
        choices=lambda: list(NORMALIZATIONS),
    )
    diversity_bonus: float = setting(
        0.0,
        "added to the scaled reward, times that reward and times the share of the completion's runs of four tokens that"
        " others lack: right answers found another way earn more, wrong ones nothing. Shapes the advantage only",
        ge=0,
    )
    diversity_within: Literal["step", "group"] = setting(
        "step", "with diversity_bonus: the others are the step's completions, or those of its own prompt"
    )
    clip: float | None = setting(None, "limit of the absolute value, after normalizing; default: none", gt=0)

    def __post_init__(self) -> None:
        Settings.__post_init__(self)
        require_choice("baseline", self.baseline, BASELINES)
        require_choice("normalize", self.normalize, NORMALIZATIONS)


def compute_advantages(
    rewards: ArrayLike,
    v_hat: ArrayLike,
    n_eff: ArrayLike,
    group_ids: ArrayLike | None,
    lengths: ArrayLike,
    *,
    active: ArrayLike | None = None,
    factors: ArrayLike | None = None,
    **options: Any,
) -> AdvantageOutput:
    """Advantages of a global batch of B sequences.

    Args:
        rewards: float [B], scaled rewards r̃ (``scale_rewards``), shaped by any overlong penalty.
        v_hat: float [B], the prompt's baseline as read at dispatch.
        n_eff: float [B], the effective sample count behind it.
        group_ids: int [B], equal for completions of one draw of a prompt; None only with ``tracker`` or ``batch``
            and without ``normalize="group"``.
        lengths: int [B], active tokens of each sequence.
        active: bool [B]; None means all.
        factors: float [B], what the finished advantages are multiplied by, and so each sequence's policy loss; None
            for 1.
        options: fields of `AdvantageOptions` by name.

    Raises:
        ValueError: an unknown option, arrays of different lengths, missing group ids, or a number of an
            active sequence that is not finite.
    """
    chosen = AdvantageOptions(**options)
    baseline, normalize, clip = chosen.baseline, chosen.normalize, chosen.clip
    batch = _read_batch(rewards, v_hat, n_eff, lengths, active)
    groups = _read_groups(group_ids, batch, needed=baseline not in ("tracker", "batch") or normalize == "group")

    raw = _subtract_baseline(batch, groups, baseline)
    scaled = _normalize(raw, batch, groups, normalize, center=baseline not in CENTERED)
    final = scaled if clip is None else np.clip(scaled, -clip, clip)
    if factors is not None:
        final = final * np.asarray(factors, dtype=np.float64)[batch.keep]

    advantages = np.zeros(batch.keep.shape[0], dtype=np.float32)
    advantages[batch.keep] = final
    singletons = 0 if groups is None or baseline in ("tracker", "batch") else int(np.count_nonzero(groups.sizes == 1))
    several = np.zeros(0, dtype=np.bool_) if groups is None else groups.spread[groups.sizes > 1]
    zero_variance = int(np.count_nonzero(~several))
    metrics = _metrics(raw, scaled, clip) | {
        "advantage/singletons": float(singletons),
        "advantage/zero_variance_groups": float(zero_variance),
    }
    if several.size:
        metrics["reward/zero_std_fraction"] = zero_variance / several.size
    return AdvantageOutput(
        advantages=advantages, metrics=metrics, singletons=singletons, zero_variance_groups=zero_variance
    )


def advantages_of(
    inputs: AdvantageInputs, lengths: ArrayLike, *, options: AdvantageOptions, active: ArrayLike | None = None
) -> AdvantageOutput:
    """`compute_advantages` of a batch's columns."""
    return compute_advantages(
        inputs.rewards,
        inputs.v_hat,
        inputs.n_eff,
        inputs.group_ids,
        lengths,
        active=active,
        factors=inputs.factors,
        **asdict(options),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """``keep`` bool [B]; the rest only of the n kept sequences."""

    keep: BoolArray
    rewards: FloatArray
    v_hat: FloatArray
    n_eff: FloatArray
    lengths: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class _Groups:
    """Groups among the n kept sequences.

    ``index`` [n] is each sequence's group; the other arrays are per group: its size, the sum and ddof-1 std
    of its rewards (0 for a single one), and whether its rewards differ at all.
    """

    index: NDArray[np.intp]
    sizes: NDArray[np.intp]
    sums: FloatArray
    stds: FloatArray
    spread: BoolArray


def _read_batch(
    rewards: ArrayLike, v_hat: ArrayLike, n_eff: ArrayLike, lengths: ArrayLike, active: ArrayLike | None
) -> _Batch:
    columns = {
        "rewards": np.asarray(rewards, dtype=np.float64),
        "v_hat": np.asarray(v_hat, dtype=np.float64),
        "n_eff": np.asarray(n_eff, dtype=np.float64),
        "lengths": np.asarray(lengths, dtype=np.float64),
    }
    shape = columns["rewards"].shape
    keep = np.ones(shape, dtype=np.bool_) if active is None else np.asarray(active, dtype=np.bool_)
    for name, values in (("active", keep), *columns.items()):
        if values.ndim != 1 or values.shape != shape:
            raise ValueError(f"{name} has shape {values.shape}, expected one number per sequence, {shape}")
        if not np.isfinite(values[keep]).all():
            raise ValueError(f"{name} of an active sequence is not finite; an unscored one must be inactive")
    return _Batch(keep=keep, **{name: values[keep] for name, values in columns.items()})


def _read_groups(group_ids: ArrayLike | None, batch: _Batch, *, needed: bool) -> _Groups | None:
    if group_ids is None:
        if needed:
            raise ValueError("this advantage.baseline or advantage.normalize needs group_ids")
        return None
    ids = np.asarray(group_ids)
    if ids.shape != batch.keep.shape:
        raise ValueError(f"group_ids has shape {ids.shape}, expected one per sequence, {batch.keep.shape}")
    _, index = np.unique(ids[batch.keep], return_inverse=True)
    sizes = np.bincount(index)
    sums = np.bincount(index, weights=batch.rewards).astype(np.float64)
    deviations = batch.rewards - (sums / sizes)[index]
    squares = np.bincount(index, weights=deviations**2)
    lowest, highest = np.full(sizes.size, np.inf), np.full(sizes.size, -np.inf)
    np.minimum.at(lowest, index, batch.rewards)
    np.maximum.at(highest, index, batch.rewards)
    return _Groups(
        index=index,
        sizes=sizes,
        sums=sums,
        stds=np.sqrt(squares / np.maximum(sizes - 1, 1)),
        # Compared, not std > 0: the mean of equal rewards may round, and leave a tiny std behind.
        spread=highest > lowest,
    )


def _subtract_baseline(batch: _Batch, groups: _Groups | None, baseline: str) -> FloatArray:
    against_v_hat = batch.rewards - batch.v_hat
    if baseline == "tracker":
        return against_v_hat
    if baseline == "batch":
        return batch.rewards - batch.rewards.mean() if batch.rewards.size else batch.rewards
    assert groups is not None
    size = groups.sizes[groups.index].astype(np.float64)
    total = groups.sums[groups.index]
    alone = size == 1
    if baseline == "loo_posterior":
        weight = batch.n_eff + size - 1.0
        others = batch.n_eff * batch.v_hat + total - batch.rewards
        estimate: FloatArray = np.divide(others, weight, out=batch.v_hat.copy(), where=~alone & (weight > 0))
        return batch.rewards - estimate
    centered = batch.rewards - total / size
    if baseline == "rloo":
        centered = centered * size / np.maximum(size - 1.0, 1.0)
    equal = ~groups.spread[groups.index]
    return np.where(alone, against_v_hat, np.where(equal, 0.0, centered))


def _normalize(raw: FloatArray, batch: _Batch, groups: _Groups | None, normalize: str, *, center: bool) -> FloatArray:
    if normalize == "group":
        assert groups is not None
        # A group without spread has no scale of its own: 1e-4 would blow up the advantage r̃ − v̂ of a group of one.
        divisor: FloatArray = np.where(groups.spread, groups.stds + _GROUP_EPSILON, 1.0)
        return raw / divisor[groups.index]
    # Where all rewards are equal the batch says nothing of the policy: v̂'s own scatter would decide the signs.
    if normalize == "none" or raw.size < 2 or batch.rewards.min() == batch.rewards.max():
        return raw
    weights = batch.lengths if normalize == "token" else np.ones_like(raw)
    total = float(weights.sum())
    if total <= 1.0:
        return raw
    mean = float(weights @ raw) / total
    std = math.sqrt(float(weights @ (raw - mean) ** 2) / (total - 1.0))
    return (raw - mean if center else raw) / (max(std, _MIN_STD) + _EPSILON)


def _metrics(raw: FloatArray, scaled: FloatArray, clip: float | None) -> dict[str, float]:
    if raw.size == 0:
        return {}
    cut = 0.0 if clip is None else float(np.mean(np.abs(scaled) > clip))
    return {
        "advantage/mean": float(raw.mean()),
        "advantage/std": float(raw.std()),
        "advantage/abs_mean": float(np.abs(raw).mean()),
        "advantage/clipped_fraction": cut,
    }
