"""The evidence behind every prompt's value: Beta counts in columns, and the arithmetic of one commit.

Per prompt: α and β (weighted successes and failures), the newest policy version seen, visits, the run of
visits in which every completion was right, and what the forgetting rule needs: the oldest version seen
(``event``) or the drift counter at the last visit (``kl``). At most 40 bytes.

    event     outcomes (S, n) of version z, with z_last the newest version seen:
                  z >= z_last:  α <- ρ^(z - z_last) α + S,   z_last <- z
                  z <  z_last:  α <- α + ρ^(z_last - z) S
    kl        α <- ρ(D) α + S once per visit, D the drift of the policy since the prompt was last visited
    constant  α <- ρ_max α + S once per visit

and β likewise with n - S. A visit is all entries of a prompt in one commit.

The decay factor ρ is that of BOLT and SPO (arXiv 2509.13232). Under ``event`` the result does not depend on
the order in which outcomes arrive. The prior of a new prompt counts as evidence of the oldest version among its
outcomes: when a still older one arrives late, the prior's share is decayed by the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.baseline.update import BaselineUpdate

Forgetting = Literal["event", "kl", "constant"]
KLSource = Literal["drift", "batch"]

UNSEEN = -1
"""``last_version`` of a prompt without evidence."""

_GROWTH = 1.2
_ALL_RIGHT_TOLERANCE = 1e-9


def event_decay(rho: float, elapsed: NDArray[Any]) -> NDArray[np.float64]:
    """ρ^elapsed, float64 [n]: the weight left after ``elapsed`` (int [n], >= 0) policy versions."""
    return np.power(rho, elapsed.astype(np.float64))


def drift_decay(distance: NDArray[np.float64], *, d_half: float, rho_min: float, rho_max: float) -> NDArray[np.float64]:
    """ρ = clip(2^(-D/D_half), rho_min, rho_max), float64 [n].

    Args:
        distance: float64 [n], D >= 0, the policy's drift in mean token |Δ log π|.
        d_half: the drift that halves the weight, before clipping.
        rho_min, rho_max: bounds of one visit's decay.
    """
    return np.clip(np.exp2(-distance / d_half), rho_min, rho_max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """The distribution assumed for a prompt without evidence: Beta(α, β)."""

    alpha: float
    beta: float

    @property
    def strength(self) -> float:
        return self.alpha + self.beta

    @property
    def v_hat(self) -> float:
        return self.alpha / self.strength


class EvidenceTable:
    """Evidence of the prompts in slots 0 … size-1."""

    def __init__(
        self, *, forgetting: Forgetting, rho_min: float, rho_max: float, d_half: float, prior_varies: bool
    ) -> None:
        self._forgetting = forgetting
        self._rho_min = rho_min
        self._rho_max = rho_max
        self._d_half = d_half
        self._size = 0
        blank: dict[str, tuple[str, float]] = {
            "alpha": ("f8", 0.0),
            "beta": ("f8", 0.0),
            "last_version": ("i4", UNSEEN),
            "visits": ("i4", 0),
            "solved_streak": ("i4", 0),
        }
        if forgetting == "event":
            blank["first_version"] = ("i4", UNSEEN)
            if prior_varies:
                blank["prior_v_hat"] = ("f8", 0.0)
        if forgetting == "kl":
            blank["drift_seen"] = ("f8", 0.0)
        self._blank = blank
        self._columns: dict[str, NDArray[Any]] = {name: np.empty(0, dtype) for name, (dtype, _) in blank.items()}

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self._columns.values())

    @property
    def column_names(self) -> frozenset[str]:
        return frozenset(self._blank)

    def column(self, name: str) -> NDArray[Any]:
        """One column, [size]; a view, not to be written to."""
        return self._columns[name][: self._size]

    def resize(self, size: int, *, exactly: bool = False) -> None:
        """Grow to ``size`` slots; new ones have no evidence. ``exactly`` leaves no spare capacity."""
        capacity = self._columns["alpha"].shape[0]
        if size > capacity:
            capacity = size if exactly else max(size, int(capacity * _GROWTH))
            for name, (dtype, fill) in self._blank.items():
                grown = np.full(capacity, fill, dtype)
                grown[: self._size] = self.column(name)
                self._columns[name] = grown
        self._size = max(self._size, size)

    def clear(self) -> None:
        """Remove all evidence; the slots stay."""
        for name, (_, fill) in self._blank.items():
            self._columns[name][:] = fill

    def write(self, slots: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> None:
        """Overwrite all columns of ``slots``."""
        for name in self._blank:
            self._columns[name][slots] = columns[name]

    def v_hat(self, slots: NDArray[np.int64] | slice, prior: Prior) -> NDArray[np.float64]:
        """float64: α / (α + β), the prior's value where there is no evidence."""
        alpha = self._columns["alpha"][slots]
        total = alpha + self._columns["beta"][slots]
        unseen = self._columns["last_version"][slots] == UNSEEN
        value = alpha / np.where(unseen, 1.0, total)
        value[unseen] = prior.v_hat
        return np.asarray(value, dtype=np.float64)

    def n_eff(self, slots: NDArray[np.int64] | slice, prior: Prior, version: int | None = None) -> NDArray[np.float64]:
        """float64: α + β, under ``event`` decayed to ``version`` where the newest outcome is older."""
        total = self._columns["alpha"][slots] + self._columns["beta"][slots]
        last = self._columns["last_version"][slots]
        if version is not None and self._forgetting == "event":
            total *= event_decay(self._rho_min, np.maximum(version - last.astype(np.int64), 0))
        total[last == UNSEEN] = prior.strength
        return np.asarray(total, dtype=np.float64)

    def seed(
        self,
        slots: NDArray[np.int64],
        alpha: NDArray[np.float64],
        beta: NDArray[np.float64],
        *,
        version: int,
        drift_total: float,
    ) -> None:
        """Set evidence from elsewhere, dated to ``version``; the visits do not change."""
        columns = self._columns
        columns["alpha"][slots] = alpha
        columns["beta"][slots] = beta
        columns["last_version"][slots] = version
        if self._forgetting == "event":
            columns["first_version"][slots] = version
        if self._forgetting == "kl":
            columns["drift_seen"][slots] = drift_total

    def apply(
        self,
        changed: NDArray[np.int64],
        group: NDArray[np.int64],
        update: BaselineUpdate,
        *,
        prior: Prior,
        drift_total: float,
    ) -> None:
        """Take one commit.

        Args:
            changed: int64 [m], the slots it changes, each once.
            group: int64 [n], where in ``changed`` the slot of each entry of ``update`` is.
            update: the outcomes, not empty.
            prior: where a prompt without evidence starts.
            drift_total: the policy's drift counted so far, this commit's own not included.
        """
        columns = self._columns
        sums = np.bincount(group, update.reward_sums)
        counts = np.bincount(group, update.counts)
        newest = np.full(changed.size, UNSEEN, dtype=np.int64)
        np.maximum.at(newest, group, update.versions)
        fresh = columns["last_version"][changed] == UNSEEN
        columns["alpha"][changed[fresh]] = prior.alpha
        columns["beta"][changed[fresh]] = prior.beta
        if self._forgetting == "event":
            self._add_by_version(changed, group, update, fresh=fresh, prior=prior)
        else:
            if self._forgetting == "kl":
                if update.distance is not None:
                    distance = np.full(changed.size, update.distance)
                else:
                    distance = np.where(fresh, 0.0, drift_total - columns["drift_seen"][changed])
                rho = drift_decay(distance, d_half=self._d_half, rho_min=self._rho_min, rho_max=self._rho_max)
                columns["drift_seen"][changed] = drift_total
            else:
                rho = np.full(changed.size, self._rho_max)
            columns["alpha"][changed] = rho * columns["alpha"][changed] + sums
            columns["beta"][changed] = rho * columns["beta"][changed] + (counts - sums)
        columns["last_version"][changed] = np.maximum(columns["last_version"][changed], newest)
        columns["visits"][changed] += 1
        all_right = sums >= counts - _ALL_RIGHT_TOLERANCE
        columns["solved_streak"][changed] = np.where(all_right, columns["solved_streak"][changed] + 1, 0)

    def _add_by_version(
        self,
        changed: NDArray[np.int64],
        group: NDArray[np.int64],
        update: BaselineUpdate,
        *,
        fresh: NDArray[np.bool_],
        prior: Prior,
    ) -> None:
        """The ``event`` rule for all entries at once: all is decayed to the newest version of its prompt."""
        columns, rho = self._columns, self._rho_min
        oldest = np.full(changed.size, np.iinfo(np.int64).max, dtype=np.int64)
        np.minimum.at(oldest, group, update.versions)
        newest = columns["last_version"][changed].astype(np.int64)
        np.maximum.at(newest, group, update.versions)
        if "prior_v_hat" in columns:
            columns["prior_v_hat"][changed[fresh]] = prior.v_hat
            prior_v_hat = columns["prior_v_hat"][changed]
        else:
            prior_v_hat = np.full(changed.size, prior.v_hat)
        first_before = np.where(fresh, oldest, columns["first_version"][changed])
        last_before = np.where(fresh, oldest, columns["last_version"][changed])
        first = np.minimum(first_before, oldest)
        kept = event_decay(rho, newest - last_before)
        # Zero, unless an outcome older than all before arrived: then the prior is that much older, too.
        prior_shift = event_decay(rho, newest - first) - event_decay(rho, newest - first_before)
        weight = event_decay(rho, newest[group] - update.versions)
        sums = np.bincount(group, weight * update.reward_sums)
        rests = np.bincount(group, weight * (update.counts - update.reward_sums))
        for name, added, share in (("alpha", sums, prior_v_hat), ("beta", rests, 1.0 - prior_v_hat)):
            value = kept * columns[name][changed] + added + prior_shift * prior.strength * share
            # The prior's share was in the value; rounding may leave a hair below zero when it is taken out.
            columns[name][changed] = np.maximum(value, 0.0)
        columns["first_version"][changed] = first
