"""What the reading of any prompt's value depends on beside the prompt's own evidence: the level of the policy.

A prompt is worth what the policy is worth now, and how this prompt differs from the others. The first part is small,
belongs to the whole store and is tracked here; the second is kept per prompt, see ``core.baseline.two_level``.

Level of a data set, at a commit with n >= 1 outcomes of it whose scaled rewards sum to S:

    R <- .9 R + S,   W <- .9 W + n,   μ = (R + 1/2) / (W + 1)

Strength m of a prompt's residual, when it is chosen automatically: each candidate's squared error on outcomes it had
not seen, e <- .95 e + Σ (n v² - 2 v S) over a commit's prompts with evidence, v the value under that candidate read
before the commit (Σ r̃² is common to all and left out). The candidate with the least e is used, the larger of equals.

All sums are taken in whole units of 2⁻³⁶, so that they are the same in any order and for any number of shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.baseline.prompt_features import BUCKETS
from bolt_ray.core.baseline.text_level import SHARES, TextLevel, TextLevelTracker, shifted
from bolt_ray.core.baseline.units import UNITS
from bolt_ray.core.metric_names import declare_metrics

declare_metrics(
    {
        "baseline/level": ("", "scaled reward of the policy now; under two_level what an unseen prompt is worth"),
        "baseline/level/{source}": ("", "the same for one dataset, where there are several"),
        "baseline/strength": ("outcomes", "how many outcomes the level counts for against a prompt's own"),
    }
)

STRENGTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
"""Candidates for the strength m, in outcomes."""

UNNAMED = ""
"""The data set of a prompt that was never registered with one; it has the number 0."""

_FIRST_STRENGTH = 2.0
_ENOUGH_JUDGED = 256
_LEVEL_KEPT = 0.9
_ERRORS_KEPT = 0.95
_MAX_WARM_WEIGHT = 256.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The level at one moment; what a shard is told with every read and commit.

    Attributes:
        means: value of an unseen prompt by the number of its data set; at least one.
        strength: how many outcomes the mean counts for against a prompt's own.
        unseen_count: N_eff of an unseen prompt.
        text: how a prompt's text moves its mean; None: not at all.
    """

    means: tuple[float, ...]
    strength: float
    unseen_count: float
    text: TextLevel | None = None

    @property
    def mean(self) -> float:
        """Of prompts that were never registered."""
        return self.means[0]

    def of(self, sources: NDArray[np.integer[Any]], features: NDArray[np.uint16] | None = None) -> NDArray[np.float64]:
        """float64 [n]: what prompts without evidence are worth.

        Args:
            sources: int [n], the number of each prompt's data set.
            features: uint16 [n, NUM_FEATURES], of their texts; None: unknown.
        """
        means: NDArray[np.float64] = np.asarray(self.means, dtype=np.float64)
        if features is None or self.text is None or self.text.share == 0.0:
            return means.take(sources)
        return shifted(means.take(sources), self.text.share * self.text.offsets(features))


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitSums:
    """What a commit, or one shard's part of it, adds to the level; ``+`` gives the sums of both.

    Attributes:
        rewards: int64 [sources], Σ r̃ of each data set's outcomes in whole units.
        counts: int64 [sources], outcomes.
        errors: int64 [len(STRENGTHS)], Σ (n v² - 2 v S) under each strength, in whole units.
        judged: outcomes of prompts with evidence, which ``errors`` are about.
        slopes: int64 [BUCKETS], what the texts' weights are moved by, see ``core.baseline.text_level``, in whole units;
            [0] where texts tell nothing.
        text_errors: int64 [len(SHARES)], Σ (n p² - 2 p S) under each share, in whole units.
    """

    rewards: NDArray[np.int64]
    counts: NDArray[np.int64]
    errors: NDArray[np.int64]
    judged: int
    slopes: NDArray[np.int64]
    text_errors: NDArray[np.int64]

    @classmethod
    def nothing(cls, level: Level) -> CommitSums:
        sources, strengths, buckets, shares = (
            np.zeros(size, dtype=np.int64)
            for size in (len(level.means), len(STRENGTHS), 0 if level.text is None else BUCKETS, len(SHARES))
        )
        return cls(rewards=sources, counts=sources, errors=strengths, judged=0, slopes=buckets, text_errors=shares)

    def __add__(self, other: CommitSums) -> CommitSums:
        return CommitSums(
            rewards=self.rewards + other.rewards,
            counts=self.counts + other.counts,
            errors=self.errors + other.errors,
            judged=self.judged + other.judged,
            slopes=self.slopes + other.slopes,
            text_errors=self.text_errors + other.text_errors,
        )


class LevelTracker:
    """The level over the course of a run; one per store, whatever its number of shards.

    Args:
        strength: m, or None to choose it by the errors.
    """

    def __init__(self, *, strength: float | None) -> None:
        self._fixed_strength = strength
        self._numbers: dict[str, int] = {UNNAMED: 0}
        self._rewards = np.zeros(1)
        self._weights = np.zeros(1)
        self._errors = np.zeros(len(STRENGTHS))
        self._judged = 0
        self._text: TextLevelTracker | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """Data sets by number."""
        return tuple(self._numbers)

    @property
    def strength(self) -> float:
        """m, in outcomes."""
        if self._fixed_strength is not None:
            return self._fixed_strength
        if self._judged < _ENOUGH_JUDGED:
            return _FIRST_STRENGTH
        # The last of equals: candidates ascend.
        return STRENGTHS[len(STRENGTHS) - 1 - int(np.argmin(self._errors[::-1]))]

    @property
    def means(self) -> NDArray[np.float64]:
        """μ by the number of the data set, float64 [sources]; 1/2 before its first outcome."""
        return (self._rewards + 0.5) / (self._weights + 1.0)

    def means_by_name(self) -> dict[str, float]:
        """μ of every data set that has had an outcome."""
        found = zip(self._numbers, self.means.tolist(), self._weights.tolist(), strict=True)
        return {name: mean for name, mean, weight in found if weight > 0.0}

    def level(self) -> Level:
        text = None if self._text is None else self._text.level()
        return Level(means=tuple(self.means.tolist()), strength=self.strength, unseen_count=0.0, text=text)

    def learn_texts(self) -> None:
        """From now on what texts tell is learned, too; to be called before prompts are described."""
        self._text = self._text or TextLevelTracker()

    def numbers(self, sources: Sequence[str]) -> NDArray[np.uint16]:
        """uint16 [n]: the numbers of data sets by name; a new name gets the next one."""
        for name in sources:
            self._numbers.setdefault(name, len(self._numbers))
        self._rewards.resize(len(self._numbers), refcheck=False)
        self._weights.resize(len(self._numbers), refcheck=False)
        return np.array([self._numbers[name] for name in sources], dtype=np.uint16)

    def take(self, sums: CommitSums) -> None:
        """Count a commit, once all of it is known."""
        some = sums.counts > 0
        for state, added in ((self._rewards, sums.rewards / UNITS), (self._weights, sums.counts)):
            state[some] = _LEVEL_KEPT * state[some] + added[some]
        if sums.judged:
            self._errors = _ERRORS_KEPT * self._errors + sums.errors / UNITS
            self._judged += sums.judged
        if self._text is not None and some.any():
            self._text.take(sums.slopes / UNITS, sums.text_errors / UNITS, int(sums.counts.sum()))

    def warm_start(
        self, sources: NDArray[np.integer[Any]], alpha: NDArray[np.float64], beta: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Let evidence from elsewhere into the level: the mean value of each data set's prompts counts for one outcome
        a prompt, at most 256.

        Args:
            sources: int [n], number of each prompt's data set.
            alpha, beta: float64 [n], not both 0.

        Returns:
            float64 [n]: that mean, of each prompt's data set.
        """
        counts = np.bincount(sources, minlength=len(self._numbers))
        totals = np.bincount(sources, alpha / (alpha + beta), minlength=len(self._numbers))
        means: NDArray[np.float64] = totals / np.maximum(counts, 1)
        weight = np.minimum(counts, _MAX_WARM_WEIGHT)
        self._rewards += weight * means
        self._weights += weight
        return means.take(sources)

    def metrics(self, level: Level) -> dict[str, float]:
        """``baseline/level…`` and ``baseline/strength``, at ``level``."""
        names = {name: mean for name, mean in self.means_by_name().items() if name != UNNAMED}
        by_name = {f"baseline/level/{name}": mean for name, mean in names.items()} if len(names) > 1 else {}
        pooled = (self._rewards.sum() + 0.5) / (self._weights.sum() + 1.0)
        by_text = {} if level.text is None else {"baseline/text_share": level.text.share}
        return {"baseline/level": float(pooled), "baseline/strength": level.strength, **by_name, **by_text}

    def state_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            "sources": list(self._numbers),
            "rewards": self._rewards.tolist(),
            "weights": self._weights.tolist(),
            "errors": self._errors.tolist(),
            "judged": self._judged,
            "text": {} if self._text is None else self._text.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> NDArray[np.uint16]:
        """Go on from a ``state_dict``; data sets are matched by name, and those known here only start anew.

        Returns:
            uint16 [sources of the state]: their numbers here.
        """
        if not state:  # of a store without a level
            state = LevelTracker(strength=None).state_dict()
        numbers = self.numbers([str(name) for name in state["sources"]])
        self._rewards[:] = 0.0
        self._weights[:] = 0.0
        self._rewards[numbers] = state["rewards"]
        self._weights[numbers] = state["weights"]
        self._errors = np.asarray(state["errors"], dtype=np.float64)
        self._judged = int(state["judged"])
        if self._text is not None:
            self._text.load_state_dict(state.get("text", {}))
        return numbers
