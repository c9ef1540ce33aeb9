from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from bolt_ray.tasks.arithmetic.dataset import distinct_problems, ensure_files
from bolt_ray.tasks.arithmetic.expressions import evaluate
from bolt_ray.tasks.arithmetic.settings import ProblemFileSettings, ProblemSettings

SETTINGS = ProblemFileSettings(num_train=2000, num_heldout=200)


def rows(path: Path) -> list[dict[str, str | int]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_files_hold_distinct_problems_with_exact_answers(tmp_path: Path) -> None:
    train_path, held_out_path = ensure_files(SETTINGS, cache_dir=tmp_path / "cache")
    train, held_out = rows(train_path), rows(held_out_path)
    assert (len(train), len(held_out)) == (2000, 200)
    both = train + held_out
    assert len({row["prompt"] for row in both}) == 2200
    assert len({row["prompt_id"] for row in both}) == 2200
    assert set(train[0]) == {"prompt_id", "prompt", "answer", "depth", "digits", "operations"}
    for row in both:
        assert evaluate(str(row["prompt"]).removesuffix("=")) == Fraction(str(row["answer"]))


def test_the_same_settings_give_the_same_bytes_and_are_written_once(tmp_path: Path) -> None:
    first = ensure_files(SETTINGS, cache_dir=tmp_path / "a")
    second = ensure_files(SETTINGS, cache_dir=tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    written = first[0].stat().st_mtime_ns
    assert ensure_files(SETTINGS, cache_dir=tmp_path / "a") == first
    assert first[0].stat().st_mtime_ns == written
    other = ensure_files(ProblemFileSettings(num_train=2000, num_heldout=200, data_seed=1), cache_dir=tmp_path / "a")
    assert other[0].read_bytes() != first[0].read_bytes()
    assert len(list((tmp_path / "a").iterdir())) == 2


def test_asking_for_more_problems_than_there_are_is_refused(tmp_path: Path) -> None:
    few = ProblemSettings(max_digits=1, max_depth=1, negative_fraction=0.0)
    with pytest.raises(ValueError, match=r"5000 different problems .* raise max_digits"):
        ensure_files(ProblemFileSettings(max_digits=1, max_depth=1, num_train=5000), cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert distinct_problems(few, count=0, seed=0) == []
    with pytest.raises(ValueError, match="num_train"):
        ProblemFileSettings(num_train=0)
