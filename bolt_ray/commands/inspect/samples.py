"""``bolt-ray inspect --samples``: completions of a run in the terminal, filtered and sorted. Reads files only."""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bolt_ray.commands.inspect.sample_text import TEXTS, Row, list_of, number_of, printable, prose_of, show_sample
from bolt_ray.core.errors import CheckpointError, ConfigError
from bolt_ray.core.settings import nearest_hint
from bolt_ray.training.run_directory import RunDirectory
from bolt_ray.training.telemetry.sample_choice import NOT_PICKED, REASONS
from bolt_ray.training.telemetry.sample_files import SampleFile, read_samples, sample_files

SORTS = {
    "reward": "reward",
    "v_hat": "v_hat",
    "surprise": "surprise",
    "length": "num_tokens",
    "gap": "gap",
    "advantage": "advantage",
}
"""What samples may be sorted by, and the key of a row that holds it."""

_STEPS = re.compile(r"\d{1,9}(-\d{0,9})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleQuery:
    """Which samples are wanted, as the options of the command line say it.

    Raises:
        ConfigError: an option that cannot be.
    """

    step: str | None = None
    kind: str | None = None
    source: str | None = None
    why: str | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    unscored: bool = False
    truncated: bool = False
    grep: str | None = None
    sort: str | None = None
    ascending: bool = False
    limit: int = 10
    full: bool = False

    def __post_init__(self) -> None:
        if self.step is not None and not _STEPS.fullmatch(self.step):
            raise ConfigError(f"--step is {self.step!r}; write a step as 120, or several as 100-200 or 100-")
        choices = (("kind", ("train", "eval")), ("why", (*REASONS, NOT_PICKED)), ("sort", tuple(SORTS)))
        for name, known in choices:
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ConfigError(
                    f"--{name} is {value!r}; choose one of {', '.join(known)}{nearest_hint(value, known)}"
                )
        if self.ascending and self.sort is None:
            raise ConfigError(f"--ascending needs --sort: {', '.join(SORTS)}")

    def wants_file(self, file: SampleFile) -> bool:
        """Whether the file may hold a row that is wanted."""
        first, dash, last = (self.step or "0-").partition("-")
        inside = int(first) <= file.step <= (int(last) if last else math.inf) if dash else file.step == int(first)
        return inside and self.kind in (None, file.kind)

    def wants(self, row: Row) -> bool:
        """Whether a row is wanted, of a file that is."""
        reward = _or(number_of(row, "reward"), math.nan)  # NaN is neither at least nor at most anything
        return (
            (self.source is None or row.get("source") == self.source)
            and (self.why is None or self.why in list_of(row, "why"))
            and (self.min_reward is None or reward >= self.min_reward)
            and (self.max_reward is None or reward <= self.max_reward)
            and (not self.unscored or row.get("unscored") is not None)
            and (not self.truncated or row.get("truncated") is True)
            and (self.grep is None or any(self.grep in prose_of(row, name) for name in TEXTS))
        )


class SampleReader:
    """The rows of a run that a query wants, newest step first.

    Attributes:
        num_read: rows read so far.
        torn: files with unreadable lines, and how many.
    """

    def __init__(self, run: Path, query: SampleQuery) -> None:
        """
        Raises:
            CheckpointError: there is no such run, or no samples of it, or none of the steps that are wanted.
        """
        self._query = query
        self._files = _files(run, query)
        self.num_read = 0
        self.torn: dict[Path, int] = {}

    def __iter__(self) -> Iterator[Row]:
        for file in reversed(self._files):
            rows, torn = _read(file.path)
            self.num_read += len(rows)
            if torn:
                self.torn[file.path] = torn
            yield from filter(self._query.wants, rows)

    def found(self) -> tuple[list[Row], bool]:
        """The rows to show, sorted, and whether there are more of them.

        Rows without the number that is sorted by come last.
        """
        limit, key = self._query.limit + 1, SORTS.get(self._query.sort or "")
        if key is None:
            rows = list(islice(self, limit))
        elif self._query.ascending:
            rows = heapq.nsmallest(limit, self, key=lambda row: _or(number_of(row, key), math.inf))
        else:
            rows = heapq.nlargest(limit, self, key=lambda row: _or(number_of(row, key), -math.inf))
        return rows[: self._query.limit], len(rows) == limit


def show_samples(run: Path, query: SampleQuery, *, console: Console) -> None:
    """Print the samples of ``run`` that ``query`` wants.

    Raises:
        CheckpointError: there is no such run, no samples of it, or a file that cannot be read.
    """
    reader = SampleReader(run, query)
    rows, more = reader.found()
    for row in rows:
        show_sample(row, console, full=query.full)
    if not rows:
        _say(console, f"None of {reader.num_read:,} samples is like that.")
    elif more:
        _say(console, f"{len(rows)} samples are shown and there are more: --limit shows them, the filters choose.")
    for path, torn in reader.torn.items():
        _say(console, f"{path}: {torn} unreadable lines are left out; the file was cut off or changed")


def _files(run: Path, query: SampleQuery) -> list[SampleFile]:
    if not run.is_dir():
        raise CheckpointError(
            f"{run}: there is no such directory; name a run directory, for example runs/<name>-<time>"
        )
    directory = RunDirectory(run).samples
    try:
        found = sample_files(directory)
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read ({error.strerror})") from None
    if not found:
        raise CheckpointError(
            f"{run}: no samples here; a run writes {directory.name}/ with its first evaluation and each step, unless "
            "samples.per_step and samples.eval are 0"
        )
    wanted = [file for file in found if query.wants_file(file)]
    if not wanted:
        there = [f"{kind} from step {min(steps)} to {max(steps)}" for kind, steps in _steps(found).items()]
        raise CheckpointError(f"{run}: no samples of these steps and this kind; there are {' and '.join(there)}")
    return wanted


def _steps(files: Sequence[SampleFile]) -> dict[str, list[int]]:
    """The steps of each kind."""
    kinds = dict.fromkeys(file.kind for file in files)
    return {kind: [file.step for file in files if file.kind == kind] for kind in kinds}


def _read(path: Path) -> tuple[list[Row], int]:
    try:
        return read_samples(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


def _or(number: float | None, default: float) -> float:
    return default if number is None else number


def _say(console: Console, text: str) -> None:
    console.print(Text(printable(text)), highlight=False, soft_wrap=True)
