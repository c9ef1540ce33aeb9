"""The default estimator: the level of the policy, and how each prompt differs from it.

One completion per prompt gives few outcomes, and the policy improves while they age. So the level μ of the policy is
tracked apart (``core.baseline.level``), and each prompt keeps only its residuals from the level of their time. At a
commit with n outcomes of sum S, μ as it stood before that commit:

    s <- ρ s + S,   c <- ρ c + n,   l <- ρ l + n μ
    v̂ = clip(μ + (s - l)/(c + m), 0, 1),   N_eff = c

An unseen prompt is worth μ. A prompt's residual counts for c outcomes against the m of the level. Kept are s - l and c.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.baseline.evidence import EvidenceTable, ForgettingRule, Visits
from bolt_ray.core.baseline.level import STRENGTHS, Level
from bolt_ray.core.baseline.units import whole_units
from bolt_ray.core.baseline.update import BaselineUpdate


class ResidualEvidence(EvidenceTable):
    """s - l and c of every prompt: ``residual`` and ``count``."""

    def __init__(self, rule: ForgettingRule) -> None:
        super().__init__(rule, dict.fromkeys(("residual", "count"), ("f8", 0.0)))

    def weight(self, slots: NDArray[np.int64] | slice, level: Level, version: int | None = None) -> NDArray[np.float64]:
        return self.n_eff(slots, level, version) + level.strength

    def values(
        self, slots: NDArray[np.int64] | slice, means: NDArray[np.float64], strength: float
    ) -> NDArray[np.float64]:
        residual = self._columns["residual"][slots]
        weight = self._columns["count"][slots] + strength
        # A strength of 0 leaves a prompt without evidence undivided; its residual is 0.
        return np.asarray(np.clip(means + residual / np.where(weight > 0.0, weight, 1.0), 0.0, 1.0))

    def _evidence_counts(self, slots: NDArray[np.int64] | slice, version: int | None) -> NDArray[np.float64]:
        return np.asarray(self._columns["count"][slots])

    def _from_counts(
        self, alpha: NDArray[np.float64], beta: NDArray[np.float64], means: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        return {"residual": alpha - (alpha + beta) * means, "count": alpha + beta}

    def _learn(self, visits: Visits, update: BaselineUpdate, *, strength: float) -> None:
        columns, slots, rho = self._columns, visits.slots, visits.rho
        columns["residual"][slots] = rho * columns["residual"][slots] + (visits.sums - visits.counts * visits.means)
        columns["count"][slots] = rho * columns["count"][slots] + visits.counts

    def _errors(self, visits: Visits, known: NDArray[np.bool_]) -> NDArray[np.int64]:
        slots, means = visits.slots[known], visits.means[known]
        sums, counts = visits.sums[known], visits.counts[known]
        values = [self.values(slots, means, strength) for strength in STRENGTHS]
        return np.array([whole_units(counts * v**2 - 2.0 * v * sums).sum() for v in values], dtype=np.int64)
