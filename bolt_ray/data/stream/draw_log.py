"""The draws of a refresh window: which rows, in which order, how many completions each; kept on disk before use."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.curriculum.sampling import draw_without_replacement, expected_draws, window_generator
from bolt_ray.core.errors import CheckpointError
from bolt_ray.core.files import write_file_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowDraws:
    """A refresh window of the prompt stream: what is drawn with one set of weights.

    Attributes:
        window: its number, from 0.
        rows: int64 [n], store rows in draw order.
        num_samples: int32 [n], completions asked of each draw.
        weights: float64 [n], see `relative_draws`; 1 where all rows are drawn alike.
    """

    window: int
    rows: NDArray[np.int64]
    num_samples: NDArray[np.int32]
    weights: NDArray[np.float64]


def window_rng(seed: int, window: int) -> np.random.Generator:
    """A generator that depends on (seed, window) alone, so that a restart draws the same.

    Another stream than the one the curriculum's weights are made with.
    """
    return window_generator(seed, window, stream=1)


def draw_window(
    weights: NDArray[np.float64],
    *,
    size: int,
    distinct: int,
    rng: np.random.Generator,
    source_ids: NDArray[np.int32] | None = None,
    source_weights: Sequence[float] | None = None,
) -> NDArray[np.int64]:
    """int64 [size]: the draws of a window, no row twice within every ``distinct`` of them.

    Without replacement over a long window most rows would be drawn, and the weights would decide little more than their
    order: of 7,000 prompts at 512 a step, ten steps draw 73 %. The other arguments are those of ``draw_indices``.
    """
    sizes = [min(distinct, size - start) for start in range(0, size, distinct)]
    draw = partial(draw_indices, weights, rng=rng, source_ids=source_ids, source_weights=source_weights)
    return np.concatenate([draw(size=count) for count in sizes])


def draw_indices(
    weights: NDArray[np.float64],
    *,
    size: int,
    rng: np.random.Generator,
    source_ids: NDArray[np.int32] | None = None,
    source_weights: Sequence[float] | None = None,
) -> NDArray[np.int64]:
    """Draw ``size`` of n rows without replacement, in random order.

    With ``source_weights`` the rows of every source are scaled so that the sources come out at these weights.
    Scaling alone would miss them whenever a source has few rows, as none is drawn twice; so each source gets
    its share of the draws first (systematic sampling: the share rounded up or down, right on average) and its
    rows are drawn within it. A source with fewer rows than its share, or a store with fewer rows than
    ``size``, repeats its rows, each as often as the others, give or take one.

    Args:
        weights: float64 [n], positive.
        source_ids: int32 [n], the source of each row; needed with ``source_weights``.
        source_weights: by source number.

    Returns:
        int64 [size], indices of the rows drawn, 0 … n-1.

    Raises:
        ValueError: a weight is not positive and finite, or there is nothing to draw from.
    """
    if source_weights is None or source_ids is None:
        picked = draw_without_replacement(weights, size, rng)
    else:
        quotas = _quotas(np.asarray(source_weights, dtype=np.float64), source_ids, size, rng)
        picks = []
        for source in np.flatnonzero(quotas).tolist():
            members = np.flatnonzero(source_ids == source)
            picks.append(members[draw_without_replacement(weights[members], int(quotas[source]), rng)])
        picked = np.concatenate(picks) if picks else np.empty(0, np.int64)
    # Draw order puts the heavy rows first; a step inside the window must not depend on that.
    drawn: NDArray[np.int64] = rng.permutation(picked)
    return drawn


def relative_draws(
    weights: NDArray[np.float64],
    drawn: NDArray[np.int64],
    *,
    distinct: int,
    source_ids: NDArray[np.int32] | None = None,
    source_weights: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """float64 [m]: how often each row drawn is drawn in expectation, over the mean of all rows, or of its source's.

    For few draws that is its weight over the mean weight; where most rows are drawn, nearly 1.

    Args:
        weights: float64 [n].
        drawn: int64 [m], indices into them.
        distinct: draws among which no row comes twice.
        source_ids, source_weights: where sources are mixed at shares of their own, which nothing undoes.
    """
    if source_ids is None or source_weights is None:
        return expected_draws(weights, distinct, drawn) * (weights.size / distinct)
    relative = np.ones(drawn.size)
    shares = np.asarray(source_weights, dtype=np.float64)
    present = np.unique(source_ids)
    for source in present.tolist():
        members = np.flatnonzero(source_ids == source)
        quota = max(1, round(distinct * float(shares[source] / shares[present].sum())))
        here = source_ids[drawn] == source
        places = np.searchsorted(members, drawn[here])
        relative[here] = expected_draws(weights[members], quota, places) * (members.size / quota)
    return relative


def _quotas(
    source_weights: NDArray[np.float64], source_ids: NDArray[np.int32], size: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """int64 [sources]: draws of each, Σ = size; a source without rows gets none."""
    present = np.bincount(source_ids, minlength=source_weights.size) > 0
    shares = np.where(present, source_weights, 0.0)
    edges = np.concatenate([[0.0], np.cumsum(shares / shares.sum())]) * size
    edges[-1] = size
    # The small offset keeps 0.75 * 2560 = 1920 whole whatever the rounding of the cumulative sum.
    quotas: NDArray[np.int64] = np.diff(np.floor(edges + rng.random() * (1 - 1e-6) + 5e-7)).astype(np.int64)
    return quotas


class DrawLog:
    """Windows' draws on disk: ``window-000007.npz``, written aside, fsynced, renamed.

    Args:
        directory: made when draws are written.
        store_address: of the store the rows belong to; draws of another store are refused.
    """

    def __init__(self, directory: Path, *, store_address: str) -> None:
        self._directory = directory
        self._address = store_address

    def write(self, draws: WindowDraws) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        address = np.frombuffer(self._address.encode("ascii"), dtype=np.uint8)
        write_file_atomically(
            self._path(draws.window),
            lambda file: np.savez(
                file, rows=draws.rows, num_samples=draws.num_samples, weights=draws.weights, store=address
            ),
        )

    def read(self, window: int) -> WindowDraws:
        """The draws of a window that was written.

        Raises:
            CheckpointError: they are missing, damaged or of another store.
        """
        path = self._path(window)
        try:
            with np.load(path, allow_pickle=False) as saved:
                address = saved["store"].tobytes().decode("ascii")
                rows = saved["rows"]
                # Windows of earlier versions have no weights.
                weights = saved["weights"] if "weights" in saved else np.ones(rows.size)
                draws = WindowDraws(window=window, rows=rows, num_samples=saved["num_samples"], weights=weights)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise CheckpointError(
                f"the draws of window {window} cannot be read from {path} ({error}); resume from an "
                "earlier checkpoint, or start a new run"
            ) from error
        if address != self._address:
            raise CheckpointError(
                f"{path} was drawn from prompt store {address}, and the datasets now make {self._address}: "
                "resume with the datasets and data settings of the run"
            )
        return draws

    def drop_from(self, window: int) -> None:
        """Forget the draws of this and all later windows."""
        for path in self._directory.glob("window-*.npz"):
            if int(path.stem.removeprefix("window-")) >= window:
                path.unlink()

    def _path(self, window: int) -> Path:
        return self._directory / f"window-{window:06d}.npz"


def check_state(state: Mapping[str, object], expected: Mapping[str, object]) -> None:
    """Refuse a stream's state that was saved under other settings.

    Raises:
        CheckpointError: names the setting.
    """
    for name, value in expected.items():
        if state.get(name) != value:
            raise CheckpointError(
                f"the prompt stream was saved with {name} {state.get(name)!r} and now has {value!r}: "
                "resume with the settings of the run"
            )
