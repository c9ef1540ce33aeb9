"""What every sink is: made from the start of a run, told its records and samples, closed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStart:
    """What a sink is made from; plain values, for they go to another process.

    Attributes:
        kind: wandb, tensorboard or trackio, or the class as ``module:Name``.
        directory: of the run.
        config: the resolved configuration without its secrets.
        first_step: finished steps that a resumed run goes on from; 0 for a new one.
        samples_every: steps from one table of training's samples to the next; 0: none.
        options: of this kind of sink.
    """

    kind: str
    directory: str
    config: Mapping[str, Any]
    first_step: int
    samples_every: int
    options: Mapping[str, Any]

    @property
    def run(self) -> Path:
        return Path(self.directory)


class Sink(Protocol):
    """Takes what a run writes down. Each method may wait: nothing but this sink waits with it."""

    def record(self, record: Mapping[str, float]) -> None:
        """The numbers of a step or an evaluation; ``step`` is the number of finished optimizer steps."""

    def samples(self, kind: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Completions of ``train`` or ``eval``, at least one; the rows of a file of samples."""

    def close(self) -> None:
        """The run ended: bring everything to where it belongs."""


Say = Callable[[str], None]


def as_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """The columns of some rows and their cells: numbers, texts and None, whatever else as JSON."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return columns, [[_cell(row.get(name)) for name in columns] for row in rows]


def _cell(value: Any) -> Any:
    return value if isinstance(value, int | float | str | None) else json.dumps(value, ensure_ascii=False)
