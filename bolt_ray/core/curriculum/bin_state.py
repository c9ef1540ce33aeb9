"""Checks of a bin scheduler's saved state: every value is checked before anything is replaced."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

REQUIRED_STATE = (
    "strategy",
    "n_bins",
    "temperature",
    "ema_alpha",
    "competence_threshold",
    "item_scores",
    "bin_boundaries",
    "last_rebin_count",
)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def checked_number(state: Mapping[str, Any], name: str, *, integer: bool = False) -> Any:
    value = state[name]
    if not (_is_int(value) if integer else _is_finite(value)):
        raise ValueError(f"{name} is {value!r}; expected {'an integer' if integer else 'a finite number'}")
    return value


def checked_items(value: object) -> dict[str, tuple[float, int]]:
    """A copy of ``{key: (average, count)}``; JSON's lists are read as pairs."""
    if not isinstance(value, Mapping):
        raise ValueError(f"item_scores is a {type(value).__name__}; expected a mapping of key to (average, count)")
    items: dict[str, tuple[float, int]] = {}
    for key, entry in value.items():
        if not isinstance(entry, tuple | list) or len(entry) != 2:
            raise ValueError(f"item_scores[{key!r}] is {entry!r}; expected (average, count)")
        average, count = entry
        if not _is_finite(average) or not _is_int(count) or count < 1:
            raise ValueError(f"item_scores[{key!r}] is {entry!r}; expected a finite average and a count >= 1")
        items[key] = (float(average), int(count))
    return items


def checked_boundaries(value: object, n_bins: int) -> NDArray[np.float64] | None:
    """A copy of the descending boundaries; None for an empty list, which stands for "not cut yet"."""
    if not isinstance(value, list | tuple) or not all(_is_finite(b) for b in value):
        raise ValueError(f"bin_boundaries is {value!r}; expected a list of finite numbers")
    if not value:
        return None
    if len(value) != n_bins or any(low > high for high, low in pairwise(value)):
        raise ValueError(f"bin_boundaries is {value!r}; expected {n_bins} numbers in descending order")
    return np.array(value, dtype=np.float64)


def checked_rng(value: object) -> Any:
    """The generator state, accepted by a generator of its kind before the scheduler's own is touched."""
    try:
        np.random.PCG64().state = value  # type: ignore[assignment]
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise ValueError(f"rng is not the state of a PCG64 generator: {error}") from error
    return value


def checked_rebin_count(value: object, total_updates: int) -> int:
    """The number of updates at the last rebinning, between 0 and all of them."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= total_updates:
        raise ValueError(f"last_rebin_count is {value!r}; expected an integer from 0 to {total_updates}")
    return value
