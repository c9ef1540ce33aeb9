"""The outcomes of one commit in columns, checked once before they are applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bolt_ray.core.baseline.level import Level
from bolt_ray.core.keys import KeyBatch, encode_keys

MAX_VERSION = 2**31 - 1
_SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineUpdate:
    """The outcomes of one commit: n entries, several of which may belong to one prompt.

    Attributes:
        keys: n keys.
        reward_sums: float64 [n], S = Σ r̃ over the entry's scaled rewards, 0 <= S <= count.
        counts: int64 [n], scored completions of the entry, >= 1.
        versions: int64 [n], the policy version that produced them.
        newest_version: newest version of the whole commit, which may have entries for other shards.
        update_id: applying the same id a second time changes nothing; None is applied always.
        drift: how far this step moved the policy, mean token |Δ log π|; None if it was not measured.
        distance: D itself, for all entries, in place of the drift the store has counted.
        level: the store's level before the commit; None where the store that takes it keeps its own.
    """

    keys: KeyBatch
    reward_sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    versions: NDArray[np.int64]
    newest_version: int
    update_id: str | None = None
    drift: float | None = None
    distance: float | None = None
    level: Level | None = None

    def take(self, which: NDArray[Any]) -> BaselineUpdate:
        """The same commit with only the entries ``which`` (int [m], or bool [n])."""
        return BaselineUpdate(
            keys=self.keys.take(which),
            reward_sums=self.reward_sums[which],
            counts=self.counts[which],
            versions=self.versions[which],
            newest_version=self.newest_version,
            update_id=self.update_id,
            drift=self.drift,
            distance=self.distance,
            level=self.level,
        )


def baseline_update(
    keys: Sequence[str],
    reward_sums: ArrayLike,
    counts: ArrayLike,
    *,
    versions: ArrayLike | None,
    known_version: int,
    update_id: str | None = None,
    drift: float | None = None,
    distance: float | None = None,
    level: Level | None = None,
) -> BaselineUpdate:
    """Check the outcomes of one commit and put them into columns; entries of count 0 are no evidence and go.

    Args:
        keys: n prompt keys.
        reward_sums: [n], sums of *scaled* rewards (``scale_rewards``).
        counts: [n], scored completions behind each sum.
        versions: [n] or one number; None stands for ``known_version``.
        known_version: the newest version known before this commit.

    Raises:
        ValueError: lengths differ, a number is NaN, infinite, negative or no whole number where one is
            needed, or a sum is larger than its count.
    """
    n = len(keys)
    sums = np.atleast_1d(np.asarray(reward_sums, dtype=np.float64))
    whole_counts = _whole_numbers("counts", counts)
    whole_versions = _whole_numbers("versions", known_version if versions is None else versions)
    if whole_versions.size == 1:
        whole_versions = np.broadcast_to(whole_versions, n)
    for name, column in (("reward_sums", sums), ("counts", whole_counts), ("versions", whole_versions)):
        if column.shape != (n,):
            raise ValueError(f"{name} has shape {column.shape} for {n} keys; give one entry per key")
    if not np.isfinite(sums).all():
        i = int(np.flatnonzero(~np.isfinite(sums))[0])
        raise ValueError(
            f"the rewards of key {keys[i]!r} sum to {sums[i]}; an unscored completion is no evidence, leave it out"
        )
    slack = _SUM_TOLERANCE * np.maximum(whole_counts, 1)
    outside = np.flatnonzero((sums < -slack) | (sums > whole_counts + slack))
    if outside.size:
        i = int(outside[0])
        raise ValueError(
            f"the rewards of key {keys[i]!r} sum to {sums[i]:g} over {whole_counts[i]} completions; "
            "sum rewards that scale_rewards() has brought into [0, 1]"
        )
    for name, number in (("drift", drift), ("kl distance", distance)):
        if number is not None and not (np.isfinite(number) and number >= 0):
            raise ValueError(f"the {name} is {number}; it must be a number from 0")
    batch = encode_keys(keys)
    update = BaselineUpdate(
        keys=batch,
        reward_sums=np.clip(sums, 0.0, whole_counts),
        counts=whole_counts,
        versions=whole_versions,
        newest_version=max(known_version, int(whole_versions.max(initial=0))),
        update_id=update_id,
        drift=None if drift is None else float(drift),
        distance=None if distance is None else float(distance),
        level=level,
    )
    return update if whole_counts.all() else update.take(whole_counts > 0)


def _whole_numbers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    numbers = np.atleast_1d(np.asarray(values))
    if numbers.size == 0:
        return np.zeros(0, dtype=np.int64)
    if numbers.dtype.kind not in "iuf" or not np.isfinite(numbers).all() or (numbers != np.rint(numbers)).any():
        raise ValueError(f"{name} must be whole numbers")
    if numbers.min() < 0 or numbers.max() > MAX_VERSION:
        raise ValueError(f"{name} must lie in 0 … {MAX_VERSION}; found {numbers.min()} … {numbers.max()}")
    return numbers.astype(np.int64)
