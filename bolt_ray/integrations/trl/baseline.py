"""The store of prompts' values as a trainer uses it: keys of rows, reads, outcomes that wait for their step, files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bolt_ray.core.advantages import scale_rewards
from bolt_ray.core.baseline import BaselineSettings, BaselineStore
from bolt_ray.core.baseline.metrics import brier, variance_reduction
from bolt_ray.core.baseline.prompt_features import prompt_features, prompt_text
from bolt_ray.core.errors import ConfigError, DataError
from bolt_ray.core.keys import prompt_key
from bolt_ray.core.records import BaselineReading

BASELINE_FILE = "bolt_ray_baseline.npz"
"""A store within a trainer's checkpoint."""

_ROUNDING = 1e-6
IMAGES = ("image", "images")


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingOutcomes:
    """What a batch of completions earned, before it is committed.

    Attributes:
        keys: n prompts, each once.
        reward_sums: float64 [n], Σ r̃.
        counts: int64 [n], completions.
        version: policy version that produced them.
        step_skipped: a step that trained on them was skipped.
    """

    keys: tuple[str, ...]
    reward_sums: NDArray[np.float64]
    counts: NDArray[np.int64]
    version: int
    step_skipped: bool = False


class UnifiedBaseline:
    """One `BaselineStore` for advantages and curriculum, with the outcomes that wait for their optimizer step.

    In a run of several processes each holds the whole store and takes the same outcomes, those of all processes.

    Args:
        settings: how the baseline estimates and forgets.
        changes: fields of ``settings`` by name.
    """

    def __init__(self, settings: BaselineSettings | None = None, /, **changes: Any) -> None:
        self.store = BaselineStore(settings, **changes)
        self._pending: list[PendingOutcomes] = []

    @property
    def pending(self) -> tuple[PendingOutcomes, ...]:
        """Outcomes not committed yet."""
        return tuple(self._pending)

    def register(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Make the rows of a data set known, in their order: what the curriculum weighs."""
        keys, sources, texts = [], [], []
        for row in rows:
            keys.append(row_key(row))
            sources.append(str(row.get("data_source") or ""))
            texts.append(prompt_text(row["prompt"]))
        self.store.register(keys, sources, prompt_features(texts))

    def read(self, keys: Sequence[str], *, version: int | None = None) -> BaselineReading:
        """v̂ and N_eff of n prompts; to be called before their completions are scored."""
        return self.store.read(keys, version)

    def observe(self, keys: Sequence[str], rewards: ArrayLike, *, version: int) -> NDArray[np.float64]:
        """Hold outcomes until their optimizer step is done.

        Those of a batch whose steps have all been skipped are dropped here, when the next batch comes.

        Args:
            keys: n prompts, in the order of the completions.
            rewards: [n], raw; NaN is no evidence.
            version: the policy's that produced them.

        Returns:
            float64 [n]: the scaled rewards r̃, NaN where there is none.

        Raises:
            ConfigError: a reward lies outside [0, 1] and no range was given.
        """
        self._pending = [batch for batch in self._pending if not batch.step_skipped]
        scaled = self._scaled(np.asarray(rewards, dtype=np.float64))
        position: dict[str, int] = {}
        places = np.array([position.setdefault(key, len(position)) for key in keys], dtype=np.int64)
        scored = np.isfinite(scaled)
        self._pending.append(
            PendingOutcomes(
                keys=tuple(position),
                reward_sums=np.bincount(places[scored], scaled[scored], minlength=len(position)).astype(np.float64),
                counts=np.bincount(places[scored], minlength=len(position)),
                version=version,
            )
        )
        return scaled

    def commit(self, update_id: str, *, drift: float | None = None) -> bool:
        """Take the outcomes held, after the optimizer step that trained on them.

        Args:
            update_id: of the step; a second call with the same does nothing.
            drift: how far the step moved the policy, mean token |Δ log π|.

        Returns:
            Whether anything was taken.
        """
        pending, self._pending = self._pending, []
        if not pending and drift is None:
            return False
        counted = [(batch, np.flatnonzero(batch.counts)) for batch in pending]
        return self.store.update_many(
            [batch.keys[i] for batch, which in counted for i in which.tolist()],
            _joined([batch.reward_sums[which] for batch, which in counted], np.float64),
            _joined([batch.counts[which] for batch, which in counted], np.int64),
            versions=_joined([np.full(which.size, batch.version) for batch, which in counted], np.int64),
            drift=drift,
            update_id=update_id,
        )

    def skip(self) -> None:
        """The step that trained on the outcomes held was skipped; they wait for a later step of the same batch."""
        self._pending = [replace(batch, step_skipped=True) for batch in self._pending]

    def metrics(self) -> dict[str, float]:
        """``baseline/*`` of the store."""
        return self.store.metrics()

    def save(self, path: str | Path) -> None:
        """Write the store to the file ``path``; what is held is not in it."""
        self.store.save(path)

    def load(self, path: str | Path) -> None:
        """Go on from a file that `save` wrote.

        Raises:
            CheckpointError: it cannot be used.
        """
        self._pending = []
        self.store.load(path)

    def _scaled(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        scored = np.isfinite(rewards)
        low, high = self.store.settings.scaled_from
        outside = scored & ((rewards < low - _ROUNDING) | (rewards > high + _ROUNDING))
        if outside.any() and self.store.settings.reward_range is None:
            raise ConfigError(
                f"baseline_reward_range: a reward is {rewards[outside][0]:g}, outside [0, 1]; set it to the "
                "[low, high] that the weighted sum of your rewards can reach"
            )
        scaled = np.full(rewards.shape, np.nan)
        scaled[scored] = scale_rewards(rewards[scored], low, high)
        return scaled


def row_key(row: Mapping[str, Any]) -> str:
    """A row's key: its ``prompt_id``, else the digest of its prompt; as under Ray.

    Raises:
        DataError: neither identifies the row.
    """
    if row.get("prompt_id") is not None:
        return str(row["prompt_id"])
    prompt = row.get("prompt")
    if isinstance(prompt, str) and not _has_image(row):
        return prompt_key(prompt)
    if isinstance(prompt, list) and not _has_image(row):
        return prompt_key([{"role": str(each["role"]), "content": _text(each["content"])} for each in prompt])
    raise DataError(
        "a row has no text alone that identifies its prompt; add a column prompt_id with an id for every row, by which "
        "the baseline then knows it"
    )


def quality(scaled: NDArray[np.float64], v_hat: NDArray[np.float64]) -> dict[str, float]:
    """What v̂ was worth for a batch of completions, read before they were scored; unscored ones are NaN."""
    scored = np.isfinite(scaled)
    return {
        "baseline/brier": brier(scaled[scored], v_hat[scored]),
        "baseline/variance_reduction": variance_reduction(scaled[scored], v_hat[scored]),
    }


def _has_image(row: Mapping[str, Any]) -> bool:
    return any(row.get(name) for name in IMAGES)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content)
    raise DataError("a message has other parts than text; add a column prompt_id with an id for every row")


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=dtype), *parts])
