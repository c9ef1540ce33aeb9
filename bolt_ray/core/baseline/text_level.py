"""The level of an unseen prompt by what its text looks like.

A data set has prompts of all difficulties, and a run that sees each of them twice learns little of each. What their
texts share says more: a logistic regression over the hashed features of ``core.baseline.prompt_features``,

    p(x) = σ(logit μ + a z(x)),   z(x) = Σ w_f / √|x|   over the features f of x

takes the place of μ in ``core.baseline.two_level``: an unseen prompt is worth p(x), a visited one differs from it. At
each commit, w moves by one step of AdaGrad (Duchi et al., 2011) along the gradient of the commit's log-likelihood,
Σ (n p - S) / √|x|, with p under a = 1. The share a of {0, 1/2, 1} is chosen as the strength is, by each candidate's
squared error on outcomes it had not seen: texts that tell nothing end at a = 0, which is the level alone.

Sums are taken in whole units, as those of the level.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.baseline.prompt_features import BUCKETS
from bolt_ray.core.baseline.units import whole_units
from bolt_ray.core.metric_names import declare_metrics

declare_metrics(
    {
        "baseline/text_share": (
            "",
            "share of what a prompt's text predicts that v̂ follows, chosen by what has predicted best; 0: none",
        )
    }
)

SHARES = (0.0, 0.5, 1.0)
"""Candidates for the share a."""

_RATE = 0.5
_FIRST_SQUARE = 0.01
_ENOUGH_JUDGED = 256
_ERRORS_KEPT = 0.98


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TextLevel:
    """What texts tell at one moment; part of what a shard is told with every read and commit, 64 KiB.

    Attributes:
        weights: float32 [BUCKETS], w; that of bucket 0 is 0.
        share: a.
    """

    weights: NDArray[np.float32]
    share: float

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TextLevel):
            return NotImplemented
        return self.share == other.share and np.array_equal(self.weights, other.weights)

    __hash__ = None  # type: ignore[assignment]

    def offsets(self, features: NDArray[np.uint16]) -> NDArray[np.float64]:
        """float64 [n]: z of features, uint16 [n, 11]."""
        return np.asarray(self.weights[features].sum(axis=1, dtype=np.float64) / _norms(features))


def shifted(means: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.float64]:
    """σ(logit mean + offset), float64 [n]; means strictly between 0 and 1."""
    return np.asarray(1.0 / (1.0 + (1.0 - means) / means * np.exp(-offsets)))


def text_sums(
    text: TextLevel,
    means: NDArray[np.float64],
    features: NDArray[np.uint16],
    *,
    sums: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What a commit's outcomes say of the weights and of the shares, in whole units.

    Args:
        text: as it stood before the commit.
        means: float64 [n], the level of each prompt's data set.
        features: uint16 [n, NUM_FEATURES].
        sums, counts: float64 [n], Σ r̃ and outcomes of each prompt.

    Returns:
        int64 [BUCKETS], Σ (n p - S)/√|x|; int64 [len(SHARES)], Σ (n p² - 2 p S).
    """
    offsets = text.offsets(features)
    candidates = [shifted(means, share * offsets) for share in SHARES]
    errors = np.array([whole_units(counts * p**2 - 2.0 * p * sums).sum() for p in candidates], dtype=np.int64)
    pulls = whole_units((counts * shifted(means, offsets) - sums) / _norms(features))
    slopes = np.zeros(BUCKETS, dtype=np.int64)
    np.add.at(slopes, features, pulls[:, None])
    slopes[0] = 0
    return slopes, errors


def _norms(features: NDArray[np.uint16]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.sqrt(np.maximum(np.count_nonzero(features, axis=1), 1))
    return norms


class TextLevelTracker:
    """What texts tell over the course of a run; one per store, whatever its number of shards."""

    def __init__(self) -> None:
        self._weights = np.zeros(BUCKETS)
        self._squares = np.full(BUCKETS, _FIRST_SQUARE)
        self._errors = np.zeros(len(SHARES))
        self._judged = 0

    @property
    def share(self) -> float:
        """a; the least of equals."""
        return SHARES[int(np.argmin(self._errors))] if self._judged >= _ENOUGH_JUDGED else 0.0

    def level(self) -> TextLevel:
        return TextLevel(weights=self._weights.astype(np.float32), share=self.share)

    def take(self, slopes: NDArray[np.float64], errors: NDArray[np.float64], count: int) -> None:
        """Learn from a commit, once all of it is known.

        Args:
            slopes: float64 [BUCKETS], Σ (n p - S)/√|x| over the commit's prompts with each feature.
            errors: float64 [len(SHARES)], Σ (n p² - 2 p S) under each share.
            count: outcomes.
        """
        self._errors = _ERRORS_KEPT * self._errors + errors
        self._judged += count
        self._squares += slopes**2
        self._weights -= _RATE * slopes / np.sqrt(self._squares)

    def state_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return {
            "weights": _packed(self._weights),
            "squares": _packed(self._squares),
            "errors": self._errors.tolist(),
            "judged": self._judged,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a ``state_dict``; from an empty one, anew."""
        state = state or TextLevelTracker().state_dict()
        self._weights = _unpacked(state["weights"])
        self._squares = _unpacked(state["squares"])
        self._errors = np.asarray(state["errors"], dtype=np.float64)
        self._judged = int(state["judged"])


def _packed(values: NDArray[np.float64]) -> str:
    return base64.b64encode(values.astype("<f8").tobytes()).decode("ascii")


def _unpacked(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), dtype="<f8").astype(np.float64)
