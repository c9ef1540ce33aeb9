"""The per-prompt columns a curriculum reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptColumns:
    """What is known about every prompt of a data set, one array entry per prompt, all of length n.

    Attributes:
        v_hat: float32 ``[n]``, the tracked success rate in [0, 1].
        n_eff: float32 ``[n]``, how many observations the estimate is worth.
        visits: int32 ``[n]``, how many groups of the prompt were scored.
        solved_streak: int32 ``[n]``, consecutive visits in which every sample was right.
        last_version: int32 ``[n]``, the policy version of the last visit, -1 for a prompt never seen.
        category: int32 ``[n]`` category index, or None when the data has no categories.

    Raises:
        ValueError: A column is not one-dimensional or differs in length from ``v_hat``.
    """

    v_hat: NDArray[np.float32]
    n_eff: NDArray[np.float32]
    visits: NDArray[np.int32]
    solved_streak: NDArray[np.int32]
    last_version: NDArray[np.int32]
    category: NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        shape = self.v_hat.shape
        if len(shape) != 1:
            raise ValueError(f"v_hat has shape {shape}; every prompt column is one-dimensional")
        others = (self.n_eff, self.visits, self.solved_streak, self.last_version, self.category)
        names = ("n_eff", "visits", "solved_streak", "last_version", "category")
        for name, column in zip(names, others, strict=True):
            if column is not None and column.shape != shape:
                raise ValueError(f"{name} has shape {column.shape}, v_hat {shape}; columns have one entry per prompt")

    @property
    def num_prompts(self) -> int:
        """n, the number of prompts."""
        return int(self.v_hat.shape[0])

    @property
    def alpha(self) -> NDArray[np.float32]:
        """float32 ``[n]``, alpha = v_hat * N_eff of the Beta posterior (the weight of successes)."""
        return self.v_hat * self.n_eff

    @property
    def beta(self) -> NDArray[np.float32]:
        """float32 ``[n]``, beta = (1 - v_hat) * N_eff of the Beta posterior (the weight of failures)."""
        return (np.float32(1.0) - self.v_hat) * self.n_eff
