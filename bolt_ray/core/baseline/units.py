"""Sums that come out the same in any order and for any number of shards: they are taken in whole units."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

UNITS = 2.0**36
"""Sums are taken in units of 2⁻³⁶: whole numbers, which add up exactly."""


def whole_units(values: ArrayLike) -> NDArray[np.int64]:
    """``values`` in whole units."""
    return np.rint(np.asarray(values, dtype=np.float64) * UNITS).astype(np.int64)
