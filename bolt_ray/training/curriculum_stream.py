"""The prompt stream of a run, fed with the curriculum's weights over the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bolt_ray.core.advantages import scale_rewards
from bolt_ray.core.curriculum import Curriculum, PromptColumns, ScoredDraws, allocate_rollouts
from bolt_ray.core.errors import DataError
from bolt_ray.core.records import DrawnPrompt
from bolt_ray.data.store import PromptStore
from bolt_ray.data.stream.stream import PromptStream
from bolt_ray.data.stream.window_reader import Tokenize, read_tokenized
from bolt_ray.training.in_flight import SavedRequest
from bolt_ray.training.rollout import StepRollouts
from bolt_ray.training.settings import RolloutSettings


class ColumnsReader(Protocol):
    """The baseline's view of the prompts to train on, in row order."""

    def columns(self, version: int) -> PromptColumns: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSchedule:
    """What is drawn beside what the curriculum's settings say.

    Attributes:
        rollout: how many completions, and so how many draws, one optimizer step takes.
        max_steps: steps of the whole run; no window is drawn for later ones.
        reward_range: (lo, hi) that rewards are scaled from.
        seed: of the draws.
        source_weights: shares of the datasets by name; None: every prompt counts by its weight alone.
        max_prompt_tokens: longest prompt after template and tokenizer.
        on_long_prompt: "skip" or "error", for a prompt that is longer or has no tokens.
        stall_timeout_s: longest wait for a prompt.
    """

    rollout: RolloutSettings
    max_steps: int
    reward_range: tuple[float, float]
    seed: int
    source_weights: Mapping[str, float] | None
    max_prompt_tokens: int
    on_long_prompt: str
    stall_timeout_s: float


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
        schedule: PromptSchedule,
        curriculum: Curriculum,
        baseline: ColumnsReader,
        tokenize: Tokenize,
        draws_dir: Path,
    ) -> None:
        """``rows``, int64 [n] and ascending, may be drawn; the baseline has them registered in this order."""
        self._store = store
        self._rows = rows
        self._schedule = schedule
        self._tokenize = tokenize
        self._curriculum = curriculum
        self._baseline = baseline
        settings = curriculum.settings
        self._categories = _categories(store, settings.category)
        self._window_size = settings.update_freq * schedule.rollout.prompts_per_step
        self._step = 0
        self._version = 0
        self._columns: PromptColumns | None = None
        self.stream = PromptStream(
            store=store,
            tokenize=tokenize,
            weights=self._weights,
            window_size=self._window_size,
            distinct_draws=settings.window_steps * schedule.rollout.prompts_per_step,
            draws_dir=draws_dir,
            seed=schedule.seed,
            rows=rows,
            source_weights=schedule.source_weights,
            num_samples=self._allocate if settings.allocate_rollouts else schedule.rollout.group_size,
            max_prompt_tokens=schedule.max_prompt_tokens,
            on_long_prompt=schedule.on_long_prompt,
            stall_timeout_s=schedule.stall_timeout_s,
        )

    def after_step(self, step: int, rollouts: StepRollouts, *, version: int) -> None:
        """Called once the baseline has learned from step ``step`` (counted from 1), with the policy's new version."""
        self._step, self._version = step, version
        self._observe(rollouts)
        _, offset = self.stream.position
        left = self._window_size - offset
        if step < self._schedule.max_steps and left <= self._schedule.rollout.prompts_per_step:
            self.stream.prefetch_next()

    def metrics(self) -> dict[str, float]:
        """The curriculum's own numbers as of the last refresh of the weights, and ``data/*``."""
        return self._curriculum.metrics() | self.stream.metrics()

    def first_token_ids(self, count: int) -> list[NDArray[np.int32]]:
        """Some prompts' tokens, cut to what the model may be given: to compare learner and generators on before
        there is a completion."""
        limit = self._schedule.max_prompt_tokens
        return [token_ids[:limit] for _, token_ids in read_tokenized(self._store, self._rows[:count], self._tokenize)]

    def redraw(self, requests: Sequence[SavedRequest]) -> list[DrawnPrompt]:
        """The prompts of a checkpoint's requests in flight, read and tokenized again."""
        if not requests:
            return []
        rows = np.array([request.row for request in requests], dtype=np.int64)
        tokenized = read_tokenized(self._store, rows, self._tokenize)
        return [
            DrawnPrompt(
                group_id=request.group_id,
                prompt=prompt,
                token_ids=token_ids,
                num_samples=request.num_samples,
                weight=request.weight,
            )
            for request, (prompt, token_ids) in zip(requests, tokenized, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        return {
            "stream": self.stream.state_dict(),
            "curriculum": self._curriculum.state_dict(),
            "step": self._step,
            "version": self._version,
        }

    def save_draws(self, directory: Path) -> None:
        """See `PromptStream.save_draws`."""
        self.stream.save_draws(directory)

    def load_state_dict(self, state: dict[str, Any], *, draws_dir: Path) -> None:
        """``draws_dir``: what `save_draws` wrote when the state was taken."""
        self.stream.load_state_dict(state["stream"], draws_dir=draws_dir)
        self._curriculum.load_state_dict(state["curriculum"])
        self._step, self._version = int(state["step"]), int(state["version"])

    def close(self) -> None:
        self.stream.close()

    def _weights(self, window: int) -> NDArray[np.float64]:
        self._columns = self._read_columns()
        return self._curriculum.weights(
            self._columns,
            step=self._step,
            total_steps=self._schedule.max_steps,
            window=window,
            version=self._version,
        )

    def _allocate(self, window: int, drawn: NDArray[np.int64]) -> NDArray[np.int32]:
        assert self._columns is not None, "the weights of a window are taken before its allocation"
        return allocate_rollouts(self._columns.v_hat[drawn], self._schedule.rollout.group_size * len(drawn))

    def _read_columns(self) -> PromptColumns:
        columns = self._baseline.columns(self._version)
        return columns if self._categories is None else replace(columns, category=self._categories[self._rows])

    def _observe(self, rollouts: StepRollouts) -> None:
        items = (*rollouts.trainable, *rollouts.baseline_only)
        rows = np.array([item.prompt.row for item in items], dtype=np.int64)
        rewards = np.array([item.tracker_reward for item in items], dtype=np.float64)
        v_hat = np.array([item.v_hat for item in items], dtype=np.float64)
        scaled = scale_rewards(rewards, *self._schedule.reward_range)
        self._curriculum.observe(
            ScoredDraws(
                rows=np.searchsorted(self._rows, rows),
                rewards=scaled,
                abs_advantages=np.abs(scaled - v_hat),
                trained=np.arange(len(items)) < len(rollouts.trainable),
                categories=None if self._categories is None else self._categories[rows],
            )
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
