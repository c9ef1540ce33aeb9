"""The order of prompts: as TRL's ``RepeatSampler`` lays them out, but drawn by weights that change over the run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from bolt_ray.core.curriculum.sampling import draw_without_replacement, window_generator

REMEMBERED_DRAWS = 64
"""Batches drawn last that a checkpoint keeps: a data loader draws some before they are trained on."""


class DynamicWeightedSampler(Sampler[int]):
    """Rows for TRL's trainer, drawn without replacement within one generation batch, by the weights set last.

    What batch b holds depends on the seed, b and the weights in force when it is drawn, and not on the number of
    processes. An epoch is as many draws as the data set has rows.

    Args:
        num_rows: of the data set.
        batch_size: prompts of one generation batch.
        mini_repeat_count: completions of a prompt, which stand together.
        repeat_count: how often a batch is laid out, as TRL's trainer asks for it: iterations × steps per generation.
        seed: of the draws.
    """

    def __init__(self, num_rows: int, *, batch_size: int, mini_repeat_count: int, repeat_count: int, seed: int) -> None:
        self.num_rows = num_rows
        self.batch_size = batch_size
        self.mini_repeat_count = mini_repeat_count
        self.repeat_count = repeat_count
        self._seed = seed
        self._epoch = 0
        self._weights = np.ones(num_rows)
        self._drawn: dict[int, NDArray[np.int64]] = {}

    @property
    def batches_per_epoch(self) -> int:
        return self.num_rows // self.batch_size

    @property
    def weights(self) -> NDArray[np.float64]:
        """float64 [num_rows]."""
        return self._weights

    def set_weights(self, weights: NDArray[np.float64]) -> None:
        """Draw by these from the next batch on, float64 [num_rows]."""
        if weights.shape != (self.num_rows,):
            raise ValueError(f"weights have shape {weights.shape}; one per row is needed, ({self.num_rows},)")
        self._weights = weights

    def start_epoch(self, epoch: int) -> None:
        """The number of the epoch that the next iteration is, from 0."""
        self._epoch = epoch

    def forget_draws(self) -> None:
        """Draw every batch anew: a trainer begins from its first step."""
        self._drawn = {}

    def draw(self, batch: int) -> NDArray[np.int64]:
        """int64 [batch_size]: the rows of a batch, counted over the whole run; one drawn before stays as it was."""
        if batch in self._drawn:
            return self._drawn[batch]
        rows = draw_without_replacement(self._weights, self.batch_size, window_generator(self._seed, batch, stream=1))
        self._drawn[batch] = rows
        for old in sorted(self._drawn)[:-REMEMBERED_DRAWS]:
            del self._drawn[old]
        return rows

    def __iter__(self) -> Iterator[int]:
        first = self._epoch * self.batches_per_epoch
        self._epoch += 1
        for batch in range(first, first + self.batches_per_epoch):
            rows = np.repeat(self.draw(batch), self.mini_repeat_count).tolist()
            for layout in repeat(rows, self.repeat_count):
                yield from layout

    def __len__(self) -> int:
        return self.batches_per_epoch * self.batch_size * self.mini_repeat_count * self.repeat_count

    def state_dict(self) -> dict[str, NDArray[np.generic]]:
        """Weights, and the batches drawn last with their numbers."""
        numbers = sorted(self._drawn)
        return {
            "weights": self._weights,
            "batches": np.array(numbers, dtype=np.int64),
            "rows": np.array([self._drawn[number] for number in numbers], dtype=np.int64).reshape(-1, self.batch_size),
        }

    def load_state_dict(self, state: dict[str, NDArray[np.generic]]) -> None:
        """Go on from a `state_dict`.

        Raises:
            ValueError: it is of another data set, or of batches of another size.
        """
        if state["weights"].shape != (self.num_rows,) or state["rows"].shape[1] != self.batch_size:
            raise ValueError(
                f"the draws are of {state['weights'].size} rows in batches of {state['rows'].shape[1]}, this run has "
                f"{self.num_rows} and {self.batch_size}; resume with the data and batch of the run"
            )
        self._weights = state["weights"].astype(np.float64)
        self._drawn = dict(zip(state["batches"].tolist(), state["rows"].astype(np.int64), strict=True))
