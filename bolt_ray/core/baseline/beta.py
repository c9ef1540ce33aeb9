"""The estimator of BOLT and SPO as published (arXiv 2509.13232): a Beta(α, β) per prompt, whose evidence fades.

    v̂ = α/(α+β),  N_eff = α+β

    event     outcomes (S, n) of version z, with z_last the newest version seen:
                  z >= z_last:  α <- ρ^(z - z_last) α + S,   z_last <- z
                  z <  z_last:  α <- α + ρ^(z_last - z) S
    kl        α <- ρ(D) α + S once per visit
    constant  α <- ρ_max α + S once per visit

and β likewise with n - S. ``event`` is that of SPO++ (arXiv 2608.24870) and does not depend on the order in which
outcomes arrive. The prior of a new prompt counts as evidence of the oldest version among its outcomes: when a still
older one arrives late, the prior's share is decayed by the difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.baseline.evidence import UNSEEN, EvidenceTable, ForgettingRule, Visits
from bolt_ray.core.baseline.update import BaselineUpdate


def event_decay(rho: float, elapsed: NDArray[Any]) -> NDArray[np.float64]:
    """ρ^elapsed, float64 [n]: the weight left after ``elapsed`` (int [n], >= 0) policy versions."""
    return np.power(rho, elapsed.astype(np.float64))


class BetaEvidence(EvidenceTable):
    """Beta counts. A ``Level`` is the prior here: its mean, and its strength as α+β."""

    def __init__(self, rule: ForgettingRule, *, prior_varies: bool) -> None:
        own = {"alpha": ("f8", 0.0), "beta": ("f8", 0.0)}
        if rule.forgetting == "event":
            own["first_version"] = ("i4", float(UNSEEN))
            if prior_varies:
                own["prior_v_hat"] = ("f8", 0.0)
        super().__init__(rule, own)

    def values(
        self, slots: NDArray[np.int64] | slice, means: NDArray[np.float64], strength: float
    ) -> NDArray[np.float64]:
        alpha = self._columns["alpha"][slots]
        total = alpha + self._columns["beta"][slots]
        return np.asarray(alpha / np.where(self._columns["last_version"][slots] == UNSEEN, 1.0, total))

    def _evidence_counts(self, slots: NDArray[np.int64] | slice, version: int | None) -> NDArray[np.float64]:
        total = self._columns["alpha"][slots] + self._columns["beta"][slots]
        if version is not None and self._rule.forgetting == "event":
            last = self._columns["last_version"][slots].astype(np.int64)
            total *= event_decay(self._rule.rho_min, np.maximum(version - last, 0))
        return np.asarray(total)

    def _from_counts(
        self, alpha: NDArray[np.float64], beta: NDArray[np.float64], means: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        return {"alpha": alpha, "beta": beta}

    def _learn(self, visits: Visits, update: BaselineUpdate, *, strength: float) -> None:
        columns, slots, rho = self._columns, visits.slots, visits.rho
        new, prior = slots[visits.fresh], visits.means[visits.fresh]
        columns["alpha"][new] = strength * prior
        columns["beta"][new] = strength * (1.0 - prior)
        if self._rule.forgetting == "event":
            self._add_by_version(visits, update, strength=strength)
        else:
            columns["alpha"][slots] = rho * columns["alpha"][slots] + visits.sums
            columns["beta"][slots] = rho * columns["beta"][slots] + (visits.counts - visits.sums)

    def _add_by_version(self, visits: Visits, update: BaselineUpdate, *, strength: float) -> None:
        """The ``event`` rule for all entries at once: all is decayed to the newest version of its prompt."""
        columns, rho = self._columns, self._rule.rho_min
        slots, entry, fresh = visits.slots, visits.entry, visits.fresh
        oldest = np.full(slots.size, np.iinfo(np.int64).max, dtype=np.int64)
        np.minimum.at(oldest, entry, update.versions)
        newest = np.maximum(columns["last_version"][slots].astype(np.int64), visits.newest)
        prior_v_hat = visits.means
        if "prior_v_hat" in columns:
            columns["prior_v_hat"][slots[fresh]] = prior_v_hat[fresh]
            prior_v_hat = columns["prior_v_hat"][slots]
        first_before = np.where(fresh, oldest, columns["first_version"][slots])
        last_before = np.where(fresh, oldest, columns["last_version"][slots])
        first = np.minimum(first_before, oldest)
        kept = event_decay(rho, newest - last_before)
        # Zero, unless an outcome older than all before arrived: then the prior is that much older, too.
        prior_shift = event_decay(rho, newest - first) - event_decay(rho, newest - first_before)
        weight = event_decay(rho, newest[entry] - update.versions)
        sums = np.bincount(entry, weight * update.reward_sums)
        rests = np.bincount(entry, weight * (update.counts - update.reward_sums))
        for name, added, share in (("alpha", sums, prior_v_hat), ("beta", rests, 1.0 - prior_v_hat)):
            value = kept * columns[name][slots] + added + prior_shift * strength * share
            # The prior's share was in the value; rounding may leave a hair below zero when it is taken out.
            columns[name][slots] = np.maximum(value, 0.0)
        columns["first_version"][slots] = first
