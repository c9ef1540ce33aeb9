"""Problems of a reasoning-gym task as a JSON Lines file, made once for its settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bolt_ray.core.errors import ConfigError, DataError
from bolt_ray.core.files import ensure_directory
from bolt_ray.tasks.reasoning_gym.library import PACKAGE, Task, library_version, make_task

FILE = "problems.jsonl"
# Part of the address: raised when the same settings would give other rows.
RECIPE = 1
# A task that gives nothing new in this many problems is considered exhausted.
_WITHOUT_NEWS = 2000
_CHECKED = 5
_NONSENSE = "?"

Progress = Callable[[int], None]
"""Told how many problems are there after each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProblems:
    """Which problems of which task.

    Attributes:
        task: as the library knows it.
        size: distinct prompts wanted.
        seed: of the problems.
        options: of the task.
        without: problems none of which is wanted, those of the evaluation.
    """

    task: str
    size: int
    seed: int
    options: Mapping[str, Any]
    without: tuple[TaskProblems, ...] = field(default=())

    def address(self) -> str:
        """The same for the same rows: 32 hex digits."""
        described = [RECIPE, library_version(), self.task, self.size, self.seed, self.options]
        text = json.dumps([*described, [one.address() for one in self.without]], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def directory(self, cache_dir: Path) -> Path:
        return cache_dir / f"{self.task}-{self.address()}"


def ensure_problems(wanted: TaskProblems, *, cache_dir: Path, on_progress: Progress) -> Path:
    """The file of these problems, made now if it is not there yet.

    Columns: prompt, answer, and for the scorer task, options and metadata. A task that takes any valid answer may have
    a reference that its own scorer does not take: its rows have no answer.

    Raises:
        EnvironmentProblem: the library is not installed.
        ConfigError: a task or option that is not there, or too few different prompts.
        DataError: the task's problems cannot be kept as JSON.
    """
    directory = wanted.directory(cache_dir)

    def write(empty: Path) -> None:
        unwanted = {
            json.loads(line)["prompt"]
            for other in wanted.without
            for line in ensure_problems(other, cache_dir=cache_dir, on_progress=lambda done: None)
            .read_text(encoding="utf-8")
            .splitlines()
        }
        with (empty / FILE).open("w", encoding="utf-8") as file:
            for done, row in enumerate(_rows(wanted, unwanted), start=1):
                file.write(json.dumps(row) + "\n")
                on_progress(done)

    ensure_directory(directory, write=write)
    return directory / FILE


def _rows(wanted: TaskProblems, unwanted: Collection[str]) -> Iterator[dict[str, Any]]:
    task = make_task(wanted.task, seed=wanted.seed, options=wanted.options)
    own_answer = _takes_its_references(task, wanted)
    seen = set(unwanted)
    given = without_news = index = 0
    while given < wanted.size:
        entry = _entry(task, index, wanted)
        index += 1
        if entry["question"] in seen:
            without_news += 1
            if without_news == _WITHOUT_NEWS:
                raise ConfigError(
                    f"datasets: {PACKAGE}/{wanted.task}: size {wanted.size:,} was asked for, and its options give only "
                    f"about {given:,} different prompts" + (" beside those evaluated on" if unwanted else "") + "; "
                    "lower size, or change options so that there are more"
                )
            continue
        without_news = 0
        seen.add(entry["question"])
        given += 1
        yield {
            "prompt": entry["question"],
            "answer": entry["answer"] if own_answer else "",
            "task": wanted.task,
            "options": wanted.options,
            "metadata": entry["metadata"],
        }


def _entry(task: Task, index: int, wanted: TaskProblems) -> dict[str, Any]:
    try:
        return task[index]
    except Exception as error:
        raise ConfigError(
            f"datasets: {PACKAGE}/{wanted.task}: problem {index} cannot be made with the options "
            f"{json.dumps(dict(wanted.options))} ({type(error).__name__}: {error})"
        ) from error


def _takes_its_references(task: Task, wanted: TaskProblems) -> bool:
    """Whether a reference answer is worth 1, looked at on the first few.

    Raises:
        DataError: a problem read back from JSON is scored in another way, or any answer is right.
    """
    taken = True
    if all(_is_right(task, _NONSENSE, _entry(task, index, wanted)) for index in range(_CHECKED)):
        raise DataError(
            f"{PACKAGE}/{wanted.task}: its scorer takes any answer, {_NONSENSE!r} for one: nothing is learned"
        )
    for index in range(_CHECKED):
        entry = _entry(task, index, wanted)
        try:
            kept = json.loads(json.dumps(entry))
        except TypeError as error:
            raise DataError(f"{PACKAGE}/{wanted.task}: its problems cannot be kept as JSON: {error}") from error
        value, read_back = (task.score_answer(one["answer"], one) for one in (entry, kept))
        if value != read_back:
            raise DataError(
                f"{PACKAGE}/{wanted.task}: its problems cannot be kept as JSON: a reference answer that is worth "
                f"{value} is worth {read_back} when read back"
            )
        taken = taken and isinstance(entry["answer"], str) and value == 1.0
    return taken


def _is_right(task: Task, answer: str, entry: dict[str, Any]) -> bool:
    try:
        return float(task.score_answer(answer, entry)) >= 1.0
    except Exception:  # noqa: BLE001 - many scorers raise at an answer of another form
        return False
