"""The prompt stream of a run, fed with the curriculum's weights over the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bolt_ray.config.schema import RunConfig
from bolt_ray.core.advantages import scale_rewards
from bolt_ray.core.curriculum import Curriculum, PromptColumns, allocate_rollouts
from bolt_ray.core.errors import DataError
from bolt_ray.core.records import DrawnPrompt, ScoredRollout
from bolt_ray.data.ingest.read_plan import source_weights
from bolt_ray.data.store import PromptStore
from bolt_ray.data.stream.stream import PromptStream
from bolt_ray.engines.tokenizer import PromptTokenizer
from bolt_ray.training.in_flight import SavedRequest
from bolt_ray.training.rollout import StepRollouts


class ColumnsReader(Protocol):
    """The baseline's view of the prompts to train on, in row order."""

    def columns(self) -> PromptColumns: ...


class CurriculumPrompts:
    """The stream, fed with the curriculum's weights over the baseline's columns.

    The next refresh window is drawn when the present one has at most one step's draws left, right after the baseline
    was updated: the latest moment at which Ray Data can still build it in the background of that last step.
    """

    def __init__(
        self,
        *,
        store: PromptStore,
        rows: NDArray[np.int64],
        config: RunConfig,
        curriculum: Curriculum,
        baseline: ColumnsReader,
        tokenize: PromptTokenizer,
        max_prompt_tokens: int,
        draws_dir: Path,
    ) -> None:
        self._store = store
        self._rows = rows
        self._tokenize = tokenize
        self._max_prompt_tokens = max_prompt_tokens
        self._curriculum = curriculum
        self._baseline = baseline
        self._prompts_per_step = config.prompts_per_step
        self._max_steps = config.train.max_steps
        self._reward_range = config.baseline.reward_range
        self._segment_size = config.curriculum.update_freq * config.prompts_per_step
        self._categories = _categories(store, config.curriculum.category)
        self._step = 0
        self._version = 0
        self._metrics: dict[str, float] = {}
        self._columns: PromptColumns | None = None
        self._group_size = config.rollout.group_size
        self.stream = PromptStream(
            store=store,
            tokenize=tokenize,
            weights=self._weights,
            segment_size=self._segment_size,
            draws_dir=draws_dir,
            seed=config.seed,
            rows=rows,
            source_weights=source_weights(config.datasets),
            num_samples=self._allocate if config.curriculum.allocate_rollouts else self._group_size,
            max_prompt_tokens=max_prompt_tokens,
            on_bad_row=config.data.on_bad_row,
            stall_timeout_s=config.deadlines.prompts_s,
        )

    def after_step(self, step: int, rollouts: StepRollouts, *, version: int) -> None:
        """Called once the baseline has learned from step ``step`` (counted from 1), with the policy's new version."""
        self._step, self._version = step, version
        self._observe(rollouts.trainable)
        _, offset = self.stream.position
        if step < self._max_steps and self._segment_size - offset <= self._prompts_per_step:
            self.stream.prefetch_next()

    def metrics(self) -> dict[str, float]:
        """``curriculum/*`` as of the last refresh of the weights, and ``data/*``."""
        return self._metrics | self.stream.metrics()

    def first_token_ids(self, count: int) -> list[NDArray[np.int32]]:
        """Some prompts' tokens, cut to what the model may be given: to compare learner and generators on before
        there is a completion."""
        sequences = self._tokenize(self._store.read(self._rows[:count]))
        return [token_ids[: self._max_prompt_tokens] for token_ids in sequences]

    def redraw(self, requests: Sequence[SavedRequest]) -> list[DrawnPrompt]:
        """The prompts of a checkpoint's requests in flight, read and tokenized again."""
        if not requests:
            return []
        prompts = self._store.read(np.array([request.row for request in requests], dtype=np.int64))
        return [
            DrawnPrompt(group_id=request.group_id, prompt=prompt, token_ids=token_ids, num_samples=request.num_samples)
            for request, prompt, token_ids in zip(requests, prompts, self._tokenize(prompts), strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {
            "stream": self.stream.state_dict(),
            "curriculum": self._curriculum.state_dict(),
            "step": self._step,
            "version": self._version,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stream.load_state_dict(state["stream"])
        self._curriculum.load_state_dict(state["curriculum"])
        self._step, self._version = int(state["step"]), int(state["version"])

    def close(self) -> None:
        self.stream.close()

    def _weights(self, segment: int) -> NDArray[np.float64]:
        columns = self._read_columns()
        weights = self._curriculum.weights(
            columns, step=self._step, total_steps=self._max_steps, segment=segment, version=self._version
        )
        self._columns = columns
        self._metrics = self._curriculum.metrics(columns)
        whole = np.ones(self._store.num_rows)  # the rest are held-out rows, which the stream does not draw
        whole[self._rows] = weights
        return whole

    def _allocate(self, segment: int, rows: NDArray[np.int64]) -> NDArray[np.int32]:
        assert self._columns is not None, "weights are computed before the allocation"
        places = np.searchsorted(self._rows, rows)
        return allocate_rollouts(self._columns.v_hat[places], self._group_size * len(rows))

    def _read_columns(self) -> PromptColumns:
        columns = self._baseline.columns()
        return columns if self._categories is None else replace(columns, category=self._categories[self._rows])

    def _observe(self, items: Sequence[ScoredRollout]) -> None:
        rows = np.array([item.prompt.row for item in items], dtype=np.int64)
        rewards = np.array([item.tracker_reward for item in items], dtype=np.float64)
        v_hat = np.array([item.v_hat for item in items], dtype=np.float64)
        self._curriculum.observe(
            categories=None if self._categories is None else self._categories[rows],
            abs_advantages=np.abs(scale_rewards(rewards, *self._reward_range) - v_hat),
        )


def _categories(store: PromptStore, column: str | None) -> NDArray[np.int32] | None:
    """The number of every row's category, int32 [num_rows], for the ``sec`` strategy.

    Raises:
        DataError: a row lacks the column.
    """
    if column is None:
        return None
    names: dict[str, int] = {}
    numbers = np.empty(store.num_rows, dtype=np.int32)
    for start in range(0, store.num_rows, 4096):
        for prompt in store.read(np.arange(start, min(start + 4096, store.num_rows), dtype=np.int64)):
            if column not in prompt.metadata:
                raise DataError(
                    f"{store.place(prompt.row)}: there is no column {column!r}, which curriculum.category names"
                )
            numbers[prompt.row] = names.setdefault(str(prompt.metadata[column]), len(names))
    return numbers
