"""The evidence behind every prompt's value, in columns: what the estimators have in common.

Per prompt: its data set, the newest policy version seen, visits, the run of visits in which every completion was
right, what the forgetting rule needs, and the columns of the estimator (``beta``, ``two_level``); where its text tells
something, the features of that. A visit is all entries of a prompt in one commit; old evidence fades once per visit,

    kl        by ρ(D), D the drift of the policy since the prompt was last visited
    constant  by ρ_max

or, under ``event``, per policy version (``core.baseline.beta``). The decay factor ρ is that of BOLT and SPO
(arXiv 2509.13232). At most 42 bytes a prompt, and 22 for features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.baseline.level import STRENGTHS, CommitSums, Level
from bolt_ray.core.baseline.prompt_features import NUM_FEATURES
from bolt_ray.core.baseline.text_level import text_sums
from bolt_ray.core.baseline.units import whole_units
from bolt_ray.core.baseline.update import BaselineUpdate

Estimator = Literal["two_level", "beta"]
Forgetting = Literal["event", "kl", "constant"]
KLSource = Literal["drift", "batch"]

UNSEEN = -1
"""``last_version`` of a prompt without evidence."""

_GROWTH = 1.2
_ALL_RIGHT_TOLERANCE = 1e-9


def drift_decay(distance: NDArray[np.float64], *, d_half: float, rho_min: float, rho_max: float) -> NDArray[np.float64]:
    """ρ = clip(2^(-D/D_half), rho_min, rho_max), float64 [n].

    Args:
        distance: float64 [n], D >= 0, the policy's drift in mean token |Δ log π|.
        d_half: the drift that halves the weight, before clipping.
        rho_min, rho_max: bounds of one visit's decay.
    """
    return np.clip(np.exp2(-distance / d_half), rho_min, rho_max)


class ForgettingRule(Protocol):
    """The settings that say how evidence fades."""

    @property
    def forgetting(self) -> Forgetting: ...
    @property
    def rho_min(self) -> float: ...
    @property
    def rho_max(self) -> float: ...
    @property
    def d_half(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Visits:
    """A commit by prompt: m prompts, each once, and what was known of them before it.

    Attributes:
        slots: int64 [m], ascending.
        entry: int64 [n], where in ``slots`` the prompt of each of the commit's entries is.
        sums: float64 [m], Σ r̃.
        counts: float64 [m], outcomes.
        newest: int64 [m], newest policy version among them.
        fresh: bool [m], prompts without evidence.
        means: float64 [m], what each prompt would be worth without evidence.
        rho: float64 [m], what is left of a unit of evidence, where it fades by visits.
    """

    slots: NDArray[np.int64]
    entry: NDArray[np.int64]
    sums: NDArray[np.float64]
    counts: NDArray[np.float64]
    newest: NDArray[np.int64]
    fresh: NDArray[np.bool_]
    means: NDArray[np.float64]
    rho: NDArray[np.float64]


class EvidenceTable(ABC):
    """Evidence of the prompts in slots 0 … size-1; the base of an estimator's table."""

    def __init__(self, rule: ForgettingRule, own_columns: dict[str, tuple[str, float]]) -> None:
        """``own_columns``: name, type and blank value of the estimator's columns."""
        self._rule = rule
        self._size = 0
        blank: dict[str, tuple[str, float]] = {
            "source": ("u2", 0),
            "last_version": ("i4", UNSEEN),
            "visits": ("i4", 0),
            "solved_streak": ("i4", 0),
            **own_columns,
        }
        if rule.forgetting == "kl":
            blank["drift_seen"] = ("f8", 0.0)
        self._blank = blank
        self._columns: dict[str, NDArray[Any]] = {}
        self._features: NDArray[np.uint16] | None = None
        self._allocate(0)

    def __len__(self) -> int:
        return self._size

    @property
    def nbytes(self) -> int:
        features = 0 if self._features is None else self._features.nbytes
        return features + sum(column.nbytes for column in self._columns.values())

    @property
    def column_names(self) -> frozenset[str]:
        return frozenset(self._blank)

    def column(self, name: str) -> NDArray[Any]:
        """One column, [size]; a view, not to be written to."""
        return self._columns[name][: self._size]

    def resize(self, size: int, *, exactly: bool = False) -> None:
        """Grow to ``size`` slots; new ones have no evidence. ``exactly`` leaves no spare capacity."""
        capacity = self._columns["visits"].shape[0]
        if size > capacity:
            self._allocate(size if exactly else max(size, int(capacity * _GROWTH)))
        self._size = max(self._size, size)

    def clear(self) -> None:
        """Remove all evidence; the slots stay, and which data set each is of."""
        for name, (_, fill) in self._blank.items():
            if name != "source":
                self._columns[name][:] = fill

    def write(self, slots: NDArray[np.int64], columns: dict[str, NDArray[Any]]) -> None:
        """Overwrite all columns of ``slots``, except a data set that is known."""
        for name in self._blank:
            if name != "source":
                self._columns[name][slots] = columns[name]
        self.name_sources(slots, columns["source"])

    def name_sources(self, slots: NDArray[np.int64], sources: NDArray[np.integer[Any]]) -> None:
        """Say of which data set the prompts are; the first to say so for a prompt counts."""
        column = self._columns["source"]
        column[slots] = np.where(column[slots] == 0, sources, column[slots])

    def describe(self, slots: NDArray[np.int64], features: NDArray[np.uint16]) -> None:
        """Say what the prompts' texts look like, uint16 [n, NUM_FEATURES]."""
        if self._features is None:
            self._features = np.zeros((self._columns["visits"].shape[0], NUM_FEATURES), dtype=np.uint16)
        self._features[slots] = features

    def means(self, slots: NDArray[np.int64] | slice, level: Level) -> NDArray[np.float64]:
        """float64: what each prompt would be worth without evidence."""
        return level.of(self._columns["source"][slots], None if self._features is None else self._features[slots])

    def v_hat(self, slots: NDArray[np.int64] | slice, level: Level) -> NDArray[np.float64]:
        """float64: the value of each prompt, in [0, 1]; that of the level where there is no evidence."""
        unseen = self._columns["last_version"][slots] == UNSEEN
        means = self.means(slots, level)
        return np.where(unseen, means, self.values(slots, means, level.strength))

    def n_eff(self, slots: NDArray[np.int64] | slice, level: Level, version: int | None = None) -> NDArray[np.float64]:
        """float64: the effective number of outcomes behind each value, as of ``version``."""
        unseen = self._columns["last_version"][slots] == UNSEEN
        return np.where(unseen, level.unseen_count, self._evidence_counts(slots, version))

    def weight(self, slots: NDArray[np.int64] | slice, level: Level, version: int | None = None) -> NDArray[np.float64]:
        """float64: how many outcomes each value is worth, with what the level counts for: α+β of a Beta over it."""
        return self.n_eff(slots, level, version)

    def seed(
        self,
        slots: NDArray[np.int64],
        alpha: NDArray[np.float64],
        beta: NDArray[np.float64],
        *,
        means: NDArray[np.float64],
        version: int,
        drift_total: float,
    ) -> None:
        """Set evidence from elsewhere, dated to ``version``: Beta counts, and the mean value of each prompt's data
        set there; the visits do not change."""
        dated = {"last_version": version, "first_version": version, "drift_seen": drift_total}
        for name, values in (dated | self._from_counts(alpha, beta, means)).items():
            if name in self._columns:
                self._columns[name][slots] = values

    def apply(
        self, slots: NDArray[np.int64], update: BaselineUpdate, *, level: Level, drift_total: float
    ) -> CommitSums:
        """Take one commit.

        Args:
            slots: int64 [n], of the commit's entries, of which there is at least one.
            update: the outcomes.
            level: as it stood before this commit.
            drift_total: the policy's drift counted so far, this commit's own not included.

        Returns:
            What the commit adds to the level.
        """
        columns = self._columns
        visits = self._visits(slots, update, level=level, drift_total=drift_total)
        sums = self._sums(visits, level)
        self._learn(visits, update, strength=level.strength)
        seen = visits.slots
        if "drift_seen" in columns:
            columns["drift_seen"][seen] = drift_total
        columns["last_version"][seen] = np.maximum(columns["last_version"][seen], visits.newest)
        columns["visits"][seen] += 1
        all_right = visits.sums >= visits.counts - _ALL_RIGHT_TOLERANCE
        columns["solved_streak"][seen] = np.where(all_right, columns["solved_streak"][seen] + 1, 0)
        return sums

    def _visits(self, slots: NDArray[np.int64], update: BaselineUpdate, *, level: Level, drift_total: float) -> Visits:
        seen, entry = np.unique(slots, return_inverse=True)
        # Added in an order of their own, so that the sum is the same in whichever order the entries came.
        order = np.lexsort((update.counts, update.reward_sums))
        newest = np.full(seen.size, UNSEEN, dtype=np.int64)
        np.maximum.at(newest, entry, update.versions)
        fresh = self._columns["last_version"][seen] == UNSEEN
        return Visits(
            slots=seen,
            entry=entry,
            sums=np.bincount(entry[order], update.reward_sums[order]).astype(np.float64),
            counts=np.bincount(entry, update.counts).astype(np.float64),
            newest=newest,
            fresh=fresh,
            means=self.means(seen, level),
            rho=self._decay(seen, fresh, update, drift_total),
        )

    def _decay(
        self, slots: NDArray[np.int64], fresh: NDArray[np.bool_], update: BaselineUpdate, drift_total: float
    ) -> NDArray[np.float64]:
        """ρ of each visit, float64 [m]."""
        rule = self._rule
        if rule.forgetting != "kl":
            return np.full(slots.size, rule.rho_max)
        if update.distance is not None:
            distance = np.full(slots.size, update.distance)
        else:
            distance = np.where(fresh, 0.0, drift_total - self._columns["drift_seen"][slots])
        return drift_decay(distance, d_half=rule.d_half, rho_min=rule.rho_min, rho_max=rule.rho_max)

    def _sums(self, visits: Visits, level: Level) -> CommitSums:
        sources = self._columns["source"][visits.slots]
        rewards = np.zeros(len(level.means), dtype=np.int64)
        np.add.at(rewards, sources, whole_units(visits.sums))
        counts = np.zeros(len(level.means), dtype=np.int64)
        np.add.at(counts, sources, visits.counts.astype(np.int64))
        known = ~visits.fresh
        nothing = CommitSums.nothing(level)
        slopes, text_errors = nothing.slopes, nothing.text_errors
        if level.text is not None and self._features is not None:
            slopes, text_errors = text_sums(
                level.text, level.of(sources), self._features[visits.slots], sums=visits.sums, counts=visits.counts
            )
        return CommitSums(
            rewards=rewards,
            counts=counts,
            errors=self._errors(visits, known),
            judged=int(visits.counts[known].sum()),
            slopes=slopes,
            text_errors=text_errors,
        )

    def _allocate(self, capacity: int) -> None:
        for name, (dtype, fill) in self._blank.items():
            grown = np.full(capacity, fill, dtype)
            if name in self._columns:
                grown[: self._size] = self.column(name)
            self._columns[name] = grown
        if self._features is not None:
            features = np.zeros((capacity, NUM_FEATURES), dtype=np.uint16)
            features[: self._size] = self._features[: self._size]
            self._features = features

    # What an estimator fills in.

    @abstractmethod
    def values(
        self, slots: NDArray[np.int64] | slice, means: NDArray[np.float64], strength: float
    ) -> NDArray[np.float64]:
        """v̂ of prompts with evidence; of others, anything finite."""

    @abstractmethod
    def _evidence_counts(self, slots: NDArray[np.int64] | slice, version: int | None) -> NDArray[np.float64]:
        """N_eff of prompts with evidence."""

    @abstractmethod
    def _from_counts(
        self, alpha: NDArray[np.float64], beta: NDArray[np.float64], means: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """The estimator's columns of evidence that is worth Beta counts, where data sets had ``means``; all [n]."""

    @abstractmethod
    def _learn(self, visits: Visits, update: BaselineUpdate, *, strength: float) -> None:
        """Let the outcomes into the estimator's columns; ``strength`` is the level's."""

    def _errors(self, visits: Visits, known: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Errors of the candidates for the strength on prompts that had evidence, ``known`` bool [m], in whole units;
        zeros where there is nothing to choose."""
        return np.zeros(len(STRENGTHS), dtype=np.int64)
