"""The default dataset: JSON Lines files of training and held-out problems."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from bolt_ray.core.files import ensure_directory
from bolt_ray.tasks.arithmetic.cache import settings_digest
from bolt_ray.tasks.arithmetic.problems import Problem, generate_problems
from bolt_ray.tasks.arithmetic.settings import ProblemFileSettings, ProblemSettings

TRAIN_FILE = "train.jsonl"
HELD_OUT_FILE = "heldout.jsonl"
# A distribution that gives nothing new in this many draws is considered exhausted.
_DRAWS_WITHOUT_NEWS = 2000


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


def ensure_files(settings: ProblemFileSettings, *, cache_dir: Path) -> tuple[Path, Path]:
    """The files of the training and of the held-out problems, written now if they are not cached yet.

    No prompt is in both, and the same settings give the same bytes. Columns: prompt_id, prompt, answer, depth,
    digits, operations.

    Raises:
        ValueError: the distribution has too few different prompts.
    """
    directory = cache_dir / f"problems-{settings_digest(settings, ProblemFileSettings)}"
    ensure_directory(directory, write=lambda empty: _write_files(settings, empty))
    return directory / TRAIN_FILE, directory / HELD_OUT_FILE


def _write_files(settings: ProblemFileSettings, directory: Path) -> None:
    train = distinct_problems(settings, count=settings.num_train, seed=settings.data_seed)
    held_out = distinct_problems(settings, count=settings.num_heldout, seed=settings.data_seed, held_out=True)
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
