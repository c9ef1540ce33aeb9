"""A number of completions of every prompt, generated and scored: the work of ``precompute-baseline``.

    store rows ─▶ Ray Data: fetch, template, tokenize ─▶ requests ─▶ CompletionService ─▶ scores of whole prompts

At most ``max_in_flight`` requests are on their way at any time, whatever the number of prompts.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from bolt_ray.commands.precompute_baseline.score_file import PromptScores
from bolt_ray.core.errors import DataError
from bolt_ray.core.records import (
    DrawnPrompt,
    GenerationRequest,
    Outcome,
    Prompt,
    ScoredCompletion,
    UnscoredCompletion,
    UnscoredReason,
)
from bolt_ray.data.store import PromptStore
from bolt_ray.data.stream.draw_log import WindowDraws
from bolt_ray.data.stream.window_reader import UNUSABLE_HINT, Tokenize, WindowReader, why_unusable
from bolt_ray.rewards.unscored import UnscoredCheck, without_detail
from bolt_ray.training.completions import POLL_S, CompletionService, request_seed
from bolt_ray.training.stall_watch import StallWatch

READ_ROWS = 4096
"""Rows that are read at a time; as many again are read ahead."""

SAVE_PROMPTS, SAVE_S = 256, 5.0
"""Finished prompts are written down when there are so many, or after so long."""


def read_in_order(
    store: PromptStore,
    rows: NDArray[np.int64],
    *,
    tokenize: Tokenize,
    max_tokens: int,
    skip_unusable: bool,
    timeout_s: float,
    skipped: Counter[str],
    read_rows: int = READ_ROWS,
) -> Generator[DrawnPrompt, None, None]:
    """The prompts of ``rows``, in that order, read through Ray Data piece by piece. Close the generator when done.

    Args:
        max_tokens: longest prompt that can be used.
        skip_unusable: leave out a prompt that is longer or has no tokens, and count it in ``skipped`` by reason.
        timeout_s: longest wait for a prompt.

    Raises:
        DataError: a prompt is too long or has no tokens, and ``skip_unusable`` is False.
        StallError: nothing came in time.
    """

    def reader(start: int) -> WindowReader:
        piece = rows[start : start + read_rows]
        return WindowReader(
            store=store,
            draws=WindowDraws(
                window=start // read_rows,
                rows=piece,
                num_samples=np.ones(piece.size, dtype=np.int32),
                weights=np.ones(piece.size),
            ),
            offset=0,
            first_group_id=start,
            tokenize=tokenize,
            max_tokens=max_tokens,
        )

    readers: list[WindowReader] = []
    try:
        for start in range(0, rows.size, read_rows):
            ahead = [start, start + read_rows][len(readers) :]
            readers += [reader(place) for place in ahead if place < rows.size]
            while not readers[0].exhausted:
                drawn = readers[0].next(timeout_s)
                if isinstance(drawn, DrawnPrompt):
                    yield drawn
                    continue
                if not skip_unusable:
                    why = why_unusable(drawn.num_tokens, max_tokens)
                    raise DataError(f"{store.place(drawn.row)}: {why}. {UNUSABLE_HINT}")
                skipped[drawn.reason] += 1
            readers.pop(0).close()
    finally:
        for open_reader in readers:
            open_reader.close()


class PromptScorer:
    """Brings ``num_samples`` scored completions of each prompt together and hands finished prompts to ``save``.

    Attributes:
        num_scored: completions with a verdict.
        unscored: completions without one, by reason without detail.
        without_score: finished prompts none of whose completions is evidence; they are not saved.
    """

    def __init__(
        self,
        *,
        service: CompletionService,
        prompts: Iterable[DrawnPrompt],
        num_samples: int,
        seed: int,
        max_in_flight: int,
        skip_truncated: bool,
        stall_s: float,
        save: Callable[[Sequence[PromptScores]], None],
        check_scores: UnscoredCheck = lambda *, num_scored, reasons: None,
        check: Callable[[], None] = lambda: None,
        on_progress: Callable[[PromptScores], None] = lambda entry: None,
    ) -> None:
        """
        Args:
            seed: with a prompt's row and the sample's number the only source of a completion's randomness: what was
                done before does not matter.
            skip_truncated: completions that the length limit ended are no evidence.
            stall_s: longest time without any progress.
            save: called with finished prompts, every few seconds and at the end, also when something is raised.
            check_scores: called after each ``save``; raises when too many completions could not be scored.
            check: called while waiting; may raise.
            on_progress: called with each finished prompt.
        """
        self._service = service
        self._num_samples = num_samples
        self._seed = seed
        self._max_in_flight = max_in_flight
        self._skip_truncated = skip_truncated
        self._stall_s = stall_s
        self._save = save
        self._check_scores = check_scores
        self._check = check
        self._on_progress = on_progress
        self._requests = self._make_requests(prompts)
        self._in_flight: dict[int, Prompt] = {}
        self._open: dict[int, list[Outcome]] = {}
        self._finished: list[PromptScores] = []
        self._saved_at = time.monotonic()
        self.num_scored = 0
        self.unscored: Counter[UnscoredReason] = Counter()
        self.without_score = 0

    def run(self) -> None:
        """Until every prompt is done.

        Raises:
            StallError: nothing arrived within the deadline.
        """
        watch, count = StallWatch(self._service, stall_s=self._stall_s), 0
        try:
            while self._top_up():
                self._check()
                self._service.pump(POLL_S)
                arrived = self._service.poll("train")
                for outcome in arrived:
                    self._arrive(outcome)
                count += len(arrived)
                watch.look(arrived=count, what=f"completions of prompts, {count:,} came so far")
                if len(self._finished) >= SAVE_PROMPTS or time.monotonic() - self._saved_at > SAVE_S:
                    self._flush()
                    self._check_scores(num_scored=self.num_scored, reasons=self.unscored)
        finally:
            self._flush()

    def _make_requests(self, prompts: Iterable[DrawnPrompt]) -> Iterator[tuple[GenerationRequest, Prompt]]:
        """Numbered by row and sample, so that a completion's seed does not depend on where a run was interrupted."""
        for drawn in prompts:
            first = drawn.prompt.row * self._num_samples
            for number in range(first, first + self._num_samples):
                seed = request_seed(self._seed, number)
                request = GenerationRequest(request_id=number, kind="train", token_ids=drawn.token_ids, seed=seed)
                yield request, drawn.prompt

    def _top_up(self) -> bool:
        """Fill what may be in flight; False when nothing is left to do."""
        asked = list(islice(self._requests, self._max_in_flight - len(self._in_flight)))
        self._in_flight.update((request.request_id, prompt) for request, prompt in asked)
        self._service.submit([request for request, _ in asked], [prompt for _, prompt in asked])
        return bool(self._in_flight)

    def _arrive(self, outcome: Outcome) -> None:
        prompt = self._in_flight.pop(outcome.request_id)
        if isinstance(outcome, UnscoredCompletion):
            self.unscored[without_detail(outcome.reason)] += 1
        else:
            self.num_scored += 1
        outcomes = self._open.setdefault(prompt.row, [])
        outcomes.append(outcome)
        if len(outcomes) < self._num_samples:
            return
        del self._open[prompt.row]
        outcomes.sort(key=lambda outcome: outcome.request_id)
        scores = tuple(
            outcome.tracker_reward
            for outcome in outcomes
            if isinstance(outcome, ScoredCompletion) and not (self._skip_truncated and outcome.truncated)
        )
        entry = PromptScores(row=prompt.row, key=prompt.key, scores=scores)
        if scores:
            self._finished.append(entry)
        else:
            self.without_score += 1
        self._on_progress(entry)

    def _flush(self) -> None:
        finished, self._finished = self._finished, []
        self._saved_at = time.monotonic()
        self._save(finished)
