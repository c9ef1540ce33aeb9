"""The weighted prompt stream: an endless sequence of prompts that follows the curriculum.

    weights(window) ─▶ draws ─ fsync ─▶ disk
                          └─▶ Ray Data: fetch rows, template, tokenize ─▶ prompts in draw order

A refresh window is as many draws as the curriculum keeps its weights. Position is (window, offset): what was handed
out, not what was read ahead.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.errors import CheckpointError, DataError
from bolt_ray.core.metric_names import declare_metrics
from bolt_ray.core.records import DrawnPrompt
from bolt_ray.data.store import PromptStore
from bolt_ray.data.stream.draw_log import (
    DrawLog,
    WindowDraws,
    check_state,
    draw_window,
    relative_draws,
    window_rng,
)
from bolt_ray.data.stream.window_reader import UNUSABLE_HINT, Tokenize, UnusableDraw, WindowReader, why_unusable

log = logging.getLogger(__name__)

declare_metrics(
    {
        "data/draws": ("prompts", "prompts drawn so far"),
        "data/skipped_{reason}": ("prompts", "draws passed over so far (data.on_long_prompt: skip), by reason"),
    }
)

Weights = Callable[[int], NDArray[np.float64]]
"""Window number to float64 [n], positive weights of the n rows that may be drawn."""

Allocate = Callable[[int, NDArray[np.int64]], NDArray[np.int32]]
"""Window number and what was drawn, int64 [m] indices into those rows, to completions of each, int32 [m], >= 1."""


class PromptStream(Iterator[DrawnPrompt]):
    """Prompts in draw order, without end.

    The weights of a window are taken at :meth:`prefetch_next`, else when its first prompt is asked for. Call
    ``prefetch_next`` as soon as the curriculum's refresh is due: it takes the weights at once, writes the draws
    down and lets Ray Data build the window while the current one is being consumed. Never calling it costs the
    time to build a window at the beginning of each, and gives the freshest weights.

    Drawn without replacement within ``distinct_draws`` (a store with fewer rows repeats them evenly). The sequence is a
    function of (seed, weights, store), of nothing else: not of the cluster, not of timing.

    Args:
        store: the prompts.
        tokenize: prompts to token ids, e.g. ``engines.tokenizer.PromptTokenizer``; must pickle.
        window_size: draws per window = prompts per step × steps between two refreshes.
        distinct_draws: draws from the beginning of a window on among which no row comes twice, then as many again and
            so on; without replacement over a whole window most of the data would be drawn whatever the weights say.
        draws_dir: where draws are kept; one per run.
        seed: with the window number the only source of randomness.
        num_samples: completions per draw, or a function that allocates them when a window is drawn.
        max_prompt_tokens: longest prompt after template and tokenizer.
        on_long_prompt: "skip" draws another for a longer prompt (or one without tokens), counted; "error" raises.
        stall_timeout_s: longest wait for a prompt.
        weights: called once per window, in the caller's thread; None: uniform.
        rows: int64 [n], the rows that may be drawn (the training side of ``store.split_heldout``); None: all.
        source_weights: shares of the sources by name; None: no mixing, every row counts by its weight alone.
    """

    def __init__(
        self,
        *,
        store: PromptStore,
        tokenize: Tokenize,
        window_size: int,
        distinct_draws: int,
        draws_dir: str | Path,
        seed: int,
        num_samples: int | Allocate,
        max_prompt_tokens: int,
        on_long_prompt: str,
        stall_timeout_s: float,
        weights: Weights | None = None,
        rows: NDArray[np.int64] | None = None,
        source_weights: Mapping[str, float] | None = None,
    ) -> None:
        if window_size < 1:
            raise ValueError(f"window_size must be at least 1, not {window_size}")
        if distinct_draws < 1:
            raise ValueError(f"distinct_draws must be at least 1, not {distinct_draws}")
        self._store = store
        self._tokenize = tokenize
        self._window_size = window_size
        self._distinct_draws = distinct_draws
        self._seed = seed
        self._weights = weights
        self._rows = np.arange(store.num_rows, dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
        if self._rows.size == 0:
            raise DataError("there are no prompts to draw from: every row is held out")
        self._source_shares = _shares(store, source_weights)
        self._source_ids = store.source_ids()[self._rows] if self._source_shares is not None else None
        self._num_samples = num_samples
        self._max_prompt_tokens = max_prompt_tokens
        self._on_long_prompt = on_long_prompt
        self._stall_timeout_s = stall_timeout_s
        self._log = DrawLog(Path(draws_dir), store_address=store.address)
        self._window = 0
        self._offset = 0
        self._num_drawn = 0
        self._draws: dict[int, WindowDraws] = {}  # of the present window and those after it
        self._skipped: Counter[str] = Counter()
        self._current: WindowReader | None = None
        self._following: WindowReader | None = None

    def __next__(self) -> DrawnPrompt:
        """The next usable prompt.

        Raises:
            DataError: a prompt is too long or has no tokens, and such are not skipped; or a whole window is unusable.
            StallError: nothing came within the deadline.
        """
        for _ in range(self._window_size + 1):
            drawn = self._reader().next(self._stall_timeout_s)
            if isinstance(drawn, UnusableDraw):
                self._skip(drawn)
            self._offset += 1
            if isinstance(drawn, DrawnPrompt):
                return drawn
        raise DataError(
            f"not one of {self._window_size} prompts in a row could be used: all are longer than "
            f"{self._max_prompt_tokens:,} tokens (data.max_prompt_tokens, and the model's context) or have no tokens"
        )

    def prefetch_next(self) -> None:
        """Take the weights of the next window now and build it in the background; once per window.

        Before the first prompt (of a run or after a resume) it is the present window that is built.
        """
        if self._current is None:
            self._current = self._open(self._window, self._offset)
        elif self._following is None:
            self._following = self._open(self._window + 1, 0)

    def take(self, count: int) -> list[DrawnPrompt]:
        """The next ``count`` prompts."""
        return [next(self) for _ in range(count)]

    @property
    def position(self) -> tuple[int, int]:
        """(window, draws of it handed out)."""
        return self._window, self._offset

    def metrics(self) -> dict[str, float]:
        """Prompts skipped so far by reason, and the number of draws handed out."""
        skipped = {f"data/skipped_{reason}": float(count) for reason, count in sorted(self._skipped.items())}
        return {"data/draws": float(self._window * self._window_size + self._offset), **skipped}

    def state_dict(self) -> dict[str, Any]:
        """The position, plain JSON values; `save_draws` writes what belongs to it."""
        return {
            "window": self._window,
            "offset": self._offset,
            "num_drawn": self._num_drawn,
            "skipped": dict(self._skipped),
            **self._settings(),
        }

    def save_draws(self, directory: Path) -> None:
        """Write the draws of the present window and of those drawn ahead, for `load_state_dict`."""
        saved = DrawLog(directory, store_address=self._store.address)
        for window in range(self._window, self._num_drawn):
            saved.write(self._draws[window])

    def load_state_dict(self, state: Mapping[str, Any], *, draws_dir: Path) -> None:
        """Go on where the state was taken: the same draws follow.

        Windows drawn after the state was taken are forgotten and drawn again, from the weights of then.

        Args:
            state: of `state_dict`.
            draws_dir: what `save_draws` wrote at that time.

        Raises:
            CheckpointError: the state is of another store or other settings, or a window's draws are gone.
        """
        # Before it could be set, no row came twice within a window.
        check_state({"distinct_draws": state.get("window_size"), **state}, self._settings())
        window, offset, num_drawn = (int(state[name]) for name in ("window", "offset", "num_drawn"))
        if not (0 <= offset <= self._window_size and window >= 0 and num_drawn <= window + 2):
            raise CheckpointError(f"impossible position of the prompt stream: window {window}, offset {offset}")
        saved = DrawLog(draws_dir, store_address=self._store.address)
        self._draws = {drawn: saved.read(drawn) for drawn in range(window, num_drawn)}
        self.close()
        self._log.drop_from(window)
        for draws in self._draws.values():
            self._log.write(draws)
        if offset == self._window_size:
            window, offset = window + 1, 0
        self._window, self._offset, self._num_drawn = window, offset, num_drawn
        self._skipped = Counter({str(reason): int(count) for reason, count in state["skipped"].items()})

    def close(self) -> None:
        """Stop reading ahead."""
        for reader in (self._current, self._following):
            if reader is not None:
                reader.close()
        self._current = self._following = None

    def _settings(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "window_size": self._window_size,
            "distinct_draws": self._distinct_draws,
            "store": self._store.address,
        }

    def _reader(self) -> WindowReader:
        """The reader the next draw comes from; moves on to the next window at the end of one."""
        if self._offset >= self._window_size:
            self._current = self._following
            self._following = None
            self._draws.pop(self._window, None)
            self._window += 1
            self._offset = 0
        if self._current is None:
            self._current = self._open(self._window, self._offset)
        return self._current

    def _open(self, window: int, offset: int) -> WindowReader:
        if window >= self._num_drawn:
            self._draws[window] = self._draw(window)
            self._log.write(self._draws[window])
            self._num_drawn = window + 1
        return WindowReader(
            store=self._store,
            draws=self._draws[window],
            offset=offset,
            first_group_id=window * self._window_size,
            tokenize=self._tokenize,
            max_tokens=self._max_prompt_tokens,
        )

    def _draw(self, window: int) -> WindowDraws:
        weights = np.ones(self._rows.size) if self._weights is None else np.asarray(self._weights(window), np.float64)
        if weights.shape != self._rows.shape:
            raise ValueError(f"weights have shape {weights.shape}, not {self._rows.shape}: one per row to draw from")
        drawn = draw_window(
            weights,
            size=self._window_size,
            distinct=self._distinct_draws,
            rng=window_rng(self._seed, window),
            source_ids=self._source_ids,
            source_weights=self._source_shares,
        )
        if callable(self._num_samples):
            num_samples = np.asarray(self._num_samples(window, drawn), dtype=np.int32)
        else:
            num_samples = np.full(drawn.size, self._num_samples, dtype=np.int32)
        if num_samples.shape != drawn.shape or int(num_samples.min()) < 1:
            raise ValueError("every draw needs at least one completion")
        return WindowDraws(
            window=window,
            rows=self._rows[drawn],
            num_samples=num_samples,
            weights=relative_draws(
                weights,
                drawn,
                distinct=self._distinct_draws,
                source_ids=self._source_ids,
                source_weights=self._source_shares,
            ),
        )

    def _skip(self, drawn: UnusableDraw) -> None:
        what = f"{self._store.place(drawn.row)}: {why_unusable(drawn.num_tokens, self._max_prompt_tokens)}"
        if self._on_long_prompt == "error":
            raise DataError(f"{what}. {UNUSABLE_HINT}")
        if not self._skipped:
            log.warning("%s. Such prompts are passed over and counted as data/skipped_*", what)
        self._skipped[drawn.reason] += 1


def _shares(store: PromptStore, source_weights: Mapping[str, float] | None) -> Sequence[float] | None:
    """Weights by source number.

    Raises:
        DataError: a source has no weight, or a weight has no source.
    """
    if source_weights is None:
        return None
    names = [source.name for source in store.sources]
    if set(names) != set(source_weights):
        raise DataError(f"weights are given for {sorted(source_weights)} and the datasets are {sorted(names)}")
    return [float(source_weights[name]) for name in names]
