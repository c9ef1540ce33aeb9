"""The default dataset: JSON Lines files of training and held-out problems."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bolt_ray.tasks.arithmetic.cache import ensure_directory, settings_digest
from bolt_ray.tasks.arithmetic.problems import Problem, ProblemSettings, generate_problems

TRAIN_FILE = "train.jsonl"
HELD_OUT_FILE = "heldout.jsonl"
# A distribution that gives nothing new in this many draws is considered exhausted.
_DRAWS_WITHOUT_NEWS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetSettings:
    """What to write: the distribution, the number of distinct problems of each file, the seed."""

    problems: ProblemSettings = field(default_factory=ProblemSettings)
    num_train: int = 20_000
    num_heldout: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_train", "num_heldout"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def distinct_problems(settings: ProblemSettings, *, count: int, seed: int, held_out: bool = False) -> list[Problem]:
    """The first ``count`` problems of a stream, each prompt once.

    Raises:
        ValueError: the distribution has too few different prompts.
    """
    found: dict[str, Problem] = {}
    without_news = 0
    for problem in generate_problems(settings, seed=seed, held_out=held_out):
        if len(found) == count:
            break
        without_news = without_news + 1 if problem.prompt in found else 0
        if without_news == _DRAWS_WITHOUT_NEWS:
            raise ValueError(
                f"{count} different problems were asked for and the settings give only about {len(found)}: "
                "raise max_digits or max_depth, or ask for fewer"
            )
        found.setdefault(problem.prompt, problem)
    return list(found.values())


def ensure_files(settings: DatasetSettings, *, cache_dir: Path) -> tuple[Path, Path]:
    """The files of the training and of the held-out problems, written now if they are not cached yet.

    No prompt is in both, and the same settings give the same bytes. Columns: prompt_id, prompt, answer, depth,
    digits, operations.

    Raises:
        ValueError: the distribution has too few different prompts.
    """
    directory = cache_dir / f"problems-{settings_digest(settings)}"
    ensure_directory(directory, write=lambda empty: _write_files(settings, empty))
    return directory / TRAIN_FILE, directory / HELD_OUT_FILE


def _write_files(settings: DatasetSettings, directory: Path) -> None:
    train = distinct_problems(settings.problems, count=settings.num_train, seed=settings.seed)
    held_out = distinct_problems(settings.problems, count=settings.num_heldout, seed=settings.seed, held_out=True)
    _write_rows(train, path=directory / TRAIN_FILE, name="train")
    _write_rows(held_out, path=directory / HELD_OUT_FILE, name="heldout")


def _write_rows(problems: Iterable[Problem], *, path: Path, name: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        for number, problem in enumerate(problems):
            row = {
                "prompt_id": f"arithmetic_{name}_{number}",
                "prompt": problem.prompt,
                "answer": problem.answer,
                "depth": problem.depth,
                "digits": problem.digits,
                "operations": problem.operations,
            }
            file.write(json.dumps(row) + "\n")
