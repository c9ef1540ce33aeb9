"""What a run does with reference answers that are wrong by their own reward."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.wired_run import store_here

from bolt_ray.commands.shared.inputs import RunInputs
from bolt_ray.commands.shared.references import verify_references
from bolt_ray.config.loading import build_config
from bolt_ray.config.resolve import resolve
from bolt_ray.core.errors import ConfigError


def said_of(tmp_path: Path, *, right: int, wrong: int, checked: int) -> list[str]:
    """Of rows that begin with the wrong answers, which hold no number."""
    rows = [{"prompt": f"{number}?", "answer": "" if number < wrong else "7"} for number in range(right + wrong)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "datasets": [{"name": str(tmp_path / "rows.jsonl")}],
        "rewards": ["exact"],
        "data": {"store_dir": str(tmp_path / "store")},
        "scoring": {"check_references": checked},
    }
    config = resolve(build_config(tree), use_gpu=False)
    store = store_here(config.datasets, config)
    inputs = RunInputs(model_path=tmp_path, train=config.datasets, heldout=(), context_tokens=64)
    said: list[str] = []
    verify_references(store, np.arange(store.num_rows), config, inputs, evaluation=False, say=said.append)
    return said


def test_a_dataset_whose_answers_are_mostly_wrong_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        said_of(tmp_path, right=5, wrong=15, checked=1000)
    message = str(refused.value)
    assert "rows: 5 of 20 reference answers are right by their reward exact" in message
    assert "rows.jsonl, line 1: the answer '' gets no verdict" in message
    assert "columns.answer" in message and "scoring.check_references: 0" in message


def test_some_wrong_answers_are_told_and_a_small_sample_refuses_nothing(tmp_path: Path) -> None:
    (told,) = said_of(tmp_path, right=15, wrong=5, checked=1000)
    assert told.startswith("rows: 15 of 20 reference answers are right") and told.count("\n") == 3
    (warned,) = said_of(tmp_path, right=5, wrong=15, checked=4)
    assert warned.startswith("Warning: rows: 1 of 4 reference answers are right")
    assert said_of(tmp_path, right=5, wrong=15, checked=0) == []
