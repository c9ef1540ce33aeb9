"""The weighted prompt stream: an endless sequence of prompts that follows the curriculum.

    weights(segment) ─▶ draws ─ fsync ─▶ disk
                          └─▶ Ray Data: fetch rows, template, tokenize ─▶ prompts in draw order

A segment is as many draws as the curriculum keeps its weights. Position is (segment, offset): what was handed
out, not what was read ahead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.errors import CheckpointError, DataError
from bolt_ray.core.records import DrawnPrompt
from bolt_ray.data.store import PromptStore
from bolt_ray.data.stream.draw_log import DrawLog, SegmentDraws, check_state, draw_rows, segment_rng
from bolt_ray.data.stream.window_reader import DRAWS_PER_TASK, SegmentReader, Tokenize, UnusableDraw

Weights = Callable[[int], NDArray[np.float64]]
"""Segment number to float64 [store.num_rows], positive weights of all rows."""

Allocate = Callable[[int, NDArray[np.int64]], NDArray[np.int32]]
"""Segment number and rows drawn, int64 [n], to completions asked of each, int32 [n], at least 1."""


class PromptStream(Iterator[DrawnPrompt]):
    """Prompts in draw order, without end.

    When the weights of a segment are taken: at :meth:`prefetch_next`, else when its first prompt is asked
    for. Call ``prefetch_next`` as soon as the curriculum's refresh is due: it takes the weights at once,
    writes the draws down and lets Ray Data build the segment while the current one is being consumed. Never
    calling it costs the time to build a segment at the beginning of each, and gives the freshest weights.
    With ``lookahead`` the stream calls it by itself when a segment begins: weights are one segment old.

    Drawn without replacement within a segment (a store with fewer rows than draws repeats them evenly). The
    sequence is a function of (seed, weights, store), of nothing else: not of the cluster, not of timing.

    Args:
        store: the prompts.
        tokenize: prompts to token ids, e.g. ``engines.tokenizer.PromptTokenizer``; must pickle.
        weights: asked once per segment, in the caller's thread; None: uniform.
        segment_size: draws per segment = prompts per step × steps between two refreshes.
        draws_dir: where draws are kept; one per run.
        seed: with the segment number the only source of randomness.
        rows: int64, the rows that may be drawn (the training side of ``store.split_heldout``); None: all.
        source_weights: shares of the sources by name; None: no mixing, every row counts by its weight alone.
        num_samples: completions per draw, or a function that allocates them when a segment is drawn.
        max_prompt_tokens: longest prompt after template and tokenizer.
        on_bad_row: "error" raises on a longer prompt (or one without tokens), "skip" leaves it out, counted.
        lookahead: draw and build the next segment as soon as one begins.
        stall_timeout_s: longest wait for a prompt.
        rows_per_task: rows one Ray Data task fetches; the sequence does not depend on it.
    """

    def __init__(
        self,
        *,
        store: PromptStore,
        tokenize: Tokenize,
        segment_size: int,
        draws_dir: str | Path,
        seed: int = 0,
        weights: Weights | None = None,
        rows: NDArray[np.int64] | None = None,
        source_weights: Mapping[str, float] | None = None,
        num_samples: int | Allocate = 1,
        max_prompt_tokens: int = 1024,
        on_bad_row: str = "error",
        lookahead: bool = False,
        stall_timeout_s: float = 600.0,
        rows_per_task: int = DRAWS_PER_TASK,
    ) -> None:
        if segment_size < 1:
            raise ValueError(f"segment_size must be at least 1, not {segment_size}")
        self._store = store
        self._tokenize = tokenize
        self._segment_size = segment_size
        self._seed = seed
        self._weights = weights
        self._rows = np.arange(store.num_rows, dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
        if self._rows.size == 0:
            raise DataError("there are no prompts to draw from: every row is held out")
        self._source_shares = _shares(store, source_weights)
        self._source_ids = store.source_ids()[self._rows] if self._source_shares is not None else None
        self._num_samples = num_samples
        self._max_prompt_tokens = max_prompt_tokens
        self._on_bad_row = on_bad_row
        self._lookahead = lookahead
        self._stall_timeout_s = stall_timeout_s
        self._rows_per_task = rows_per_task
        self._log = DrawLog(Path(draws_dir), store_address=store.address)
        self._segment = 0
        self._offset = 0
        self._num_drawn = 0
        self._skipped: Counter[str] = Counter()
        self._current: SegmentReader | None = None
        self._following: SegmentReader | None = None

    def __next__(self) -> DrawnPrompt:
        """The next usable prompt.

        Raises:
            DataError: a prompt is too long or has no tokens, and bad rows are not skipped; or a whole
                segment is unusable.
            StallError: nothing came within the deadline.
        """
        for _ in range(self._segment_size + 1):
            drawn = self._reader().next(self._stall_timeout_s)
            self._offset += 1
            if isinstance(drawn, DrawnPrompt):
                return drawn
            self._skip(drawn)
        raise DataError(
            f"not one of {self._segment_size} prompts in a row could be used: all are longer than "
            f"data.max_prompt_tokens {self._max_prompt_tokens} or have no tokens"
        )

    def prefetch_next(self) -> None:
        """Take the weights of the next segment now and build it in the background; once per segment.

        Before the first prompt (of a run or after a resume) it is the present segment that is built.
        """
        if self._current is None:
            self._current = self._open(self._segment, self._offset)
        elif self._following is None:
            self._following = self._open(self._segment + 1, 0)

    def take(self, count: int) -> list[DrawnPrompt]:
        """The next ``count`` prompts."""
        return [next(self) for _ in range(count)]

    @property
    def position(self) -> tuple[int, int]:
        """(segment, draws of it handed out)."""
        return self._segment, self._offset

    def metrics(self) -> dict[str, float]:
        """Prompts skipped so far by reason, and the number of draws handed out."""
        skipped = {f"data/skipped_{reason}": float(count) for reason, count in sorted(self._skipped.items())}
        return {"data/draws": float(self._segment * self._segment_size + self._offset), **skipped}

    def state_dict(self) -> dict[str, Any]:
        """The position, plain JSON values. Segments already drawn keep their draws in ``draws_dir``."""
        return {
            "segment": self._segment,
            "offset": self._offset,
            "num_drawn": self._num_drawn,
            "skipped": dict(self._skipped),
            **self._settings(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken: the same draws follow.

        Segments drawn after the state was taken are forgotten and drawn again, from the weights of then.

        Raises:
            CheckpointError: the state is of another store or other settings, or a segment's draws are gone.
        """
        check_state(state, self._settings())
        segment, offset, num_drawn = (int(state[name]) for name in ("segment", "offset", "num_drawn"))
        if not (0 <= offset <= self._segment_size and segment >= 0 and num_drawn <= segment + 2):
            raise CheckpointError(f"impossible position of the prompt stream: segment {segment}, offset {offset}")
        for drawn in range(segment, num_drawn):
            self._log.read(drawn)
        self.close()
        self._log.drop_from(num_drawn)
        if offset == self._segment_size:
            segment, offset = segment + 1, 0
        self._segment, self._offset, self._num_drawn = segment, offset, num_drawn
        self._skipped = Counter({str(reason): int(count) for reason, count in state["skipped"].items()})

    def close(self) -> None:
        """Stop reading ahead."""
        for reader in (self._current, self._following):
            if reader is not None:
                reader.close()
        self._current = self._following = None

    def _settings(self) -> dict[str, Any]:
        return {"seed": self._seed, "segment_size": self._segment_size, "store": self._store.address}

    def _reader(self) -> SegmentReader:
        """The reader the next draw comes from; moves on to the next segment at the end of one."""
        if self._offset >= self._segment_size:
            self._current = self._following
            self._following = None
            self._segment += 1
            self._offset = 0
        if self._current is None:
            self._current = self._open(self._segment, self._offset)
        if self._lookahead and self._following is None:
            self._following = self._open(self._segment + 1, 0)
        return self._current

    def _open(self, segment: int, offset: int) -> SegmentReader:
        if segment < self._num_drawn:
            draws = self._log.read(segment)
        else:
            draws = self._draw(segment)
            self._log.write(draws)
            self._num_drawn = segment + 1
        return SegmentReader(
            store=self._store,
            draws=draws,
            offset=offset,
            first_group_id=segment * self._segment_size,
            tokenize=self._tokenize,
            max_tokens=self._max_prompt_tokens,
            rows_per_task=self._rows_per_task,
        )

    def _draw(self, segment: int) -> SegmentDraws:
        if self._weights is None:
            weights = np.ones(self._rows.size)
        else:
            all_weights = np.asarray(self._weights(segment), dtype=np.float64)
            if all_weights.shape != (self._store.num_rows,):
                raise ValueError(f"weights have shape {all_weights.shape}, not ({self._store.num_rows},)")
            weights = all_weights[self._rows]
        rows = draw_rows(
            weights,
            rows=self._rows,
            size=self._segment_size,
            rng=segment_rng(self._seed, segment),
            source_ids=self._source_ids,
            source_weights=self._source_shares,
        )
        if callable(self._num_samples):
            num_samples = np.asarray(self._num_samples(segment, rows), dtype=np.int32)
        else:
            num_samples = np.full(rows.size, self._num_samples, dtype=np.int32)
        if num_samples.shape != rows.shape or int(num_samples.min()) < 1:
            raise ValueError("every draw needs at least one completion")
        return SegmentDraws(segment=segment, rows=rows, num_samples=num_samples)

    def _skip(self, drawn: UnusableDraw) -> None:
        reason = "too_many_tokens" if drawn.num_tokens else "no_tokens"
        if self._on_bad_row != "skip":
            what = (
                f"the prompt has {drawn.num_tokens:,} tokens, more than data.max_prompt_tokens "
                f"{self._max_prompt_tokens:,}"
                if drawn.num_tokens
                else "the tokenizer makes no token of the prompt"
            )
            raise DataError(
                f"{self._store.place(drawn.row)}: {what}. Raise the limit, shorten the prompt, or set "
                "data.on_bad_row: skip"
            )
        self._skipped[reason] += 1


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
