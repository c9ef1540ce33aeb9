"""Rewards by data source, and held-out problems that are too long."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support.wired_run import store_here

from bolt_ray.commands.shared.inference import start_scorers
from bolt_ray.commands.shared.inputs import RunInputs
from bolt_ray.commands.shared.prompts import heldout_problems
from bolt_ray.config.loading import build_config
from bolt_ray.config.resolve import resolve
from bolt_ray.config.schema import RunConfig
from bolt_ray.core.errors import ConfigError, DataError
from bolt_ray.core.records import Prompt


def config_of(tmp_path: Path, dataset: dict[str, Any] | None = None, **data: Any) -> RunConfig:
    rows = [
        {"data_source": "gsm8k", "prompt": "1+1=", "label": "2"},
        {"data_source": "code", "prompt": "print(1) and no more", "label": "1"},
        {"prompt": "9-1=", "label": "8"},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return build_config(
        {
            "datasets": [{"name": str(tmp_path / "rows.jsonl"), **(dataset or {})}],
            "data": {"store_dir": str(tmp_path / "store"), **data},
            "rewards": [{"type": "math"}, {"type": "exact", "weight": 2.0}],
            "cluster": {"use_gpu": "no"},
        }
    )


def test_a_reward_for_each_data_source(tmp_path: Path) -> None:
    reward = {"gsm8k": "math", "code": "exact", "rows": "exact"}
    config = config_of(tmp_path, {"reward": reward})
    assert store_here(config.datasets, config).num_rows == 3
    asked: dict[str, Any] = {}
    inputs = RunInputs(model_path=tmp_path, train=config.datasets, heldout=(), context_tokens=64)
    start_scorers(config, inputs, start=lambda **given: asked.update(given))  # type: ignore[arg-type, return-value]
    expected = {"rows": [], "rows: gsm8k": ["math"], "rows: code": ["exact"], "rows: rows": ["exact"]}
    assert asked["by_source"] == asked["eval_by_source"] == expected
    # A row earns 0 to 1, or 0 to 2: the baseline's range is of both.
    assert resolve(config, use_gpu=False).baseline.reward_range == (0.0, 2.0)


def test_a_data_source_without_a_reward_is_found_before_anything_starts(tmp_path: Path) -> None:
    config = config_of(tmp_path, {"reward": {"gsm8k": "math", "rows": "exact"}})
    with pytest.raises(DataError, match=r"dataset 'rows': reward: names none for 'code', .* it has 'gsm8k', 'rows'"):
        store_here(config.datasets, config)
    with pytest.raises(ConfigError, match=r"datasets: no reward is named 'maths'.*math"):
        config_of(tmp_path, {"reward": {"gsm8k": "maths"}})


def characters(prompts: Sequence[Prompt]) -> list[NDArray[np.int32]]:
    return [np.arange(len(str(prompt.prompt)), dtype=np.int32) for prompt in prompts]


def test_held_out_problems_that_are_too_long_are_left_out_and_told(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    store, told = store_here(config.datasets, config), list[str]()
    rows = np.arange(3)
    given: dict[str, Any] = {"tokenize": characters, "max_tokens": 8, "say": told.append}
    problems = heldout_problems(store, rows, on_long_prompt="skip", **given)
    assert [(problem.group_id, problem.prompt.row) for problem in problems] == [(0, 0), (1, 2)]
    (line,) = told
    assert line.startswith("1 of 3 held-out problems are left out. The first, ")
    assert "rows.jsonl, line 2: the prompt has 20 tokens, the limit is 8 (data.max_prompt_tokens" in line
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: the prompt has 20 tokens.*on_long_prompt: skip"):
        heldout_problems(store, rows, on_long_prompt="error", **given)
    with pytest.raises(DataError, match=r"not one held-out problem can be used; .*line 2"):
        heldout_problems(store, rows[1:2], on_long_prompt="skip", **given)
    assert heldout_problems(store, rows[:0], on_long_prompt="skip", **given) == []


def test_what_is_done_with_long_prompts_is_no_matter_of_the_store(tmp_path: Path) -> None:
    first = config_of(tmp_path)
    store = store_here(first.datasets, first)
    built = (store.directory / "manifest.json").stat().st_mtime_ns
    again = config_of(tmp_path, on_long_prompt="error", max_prompt_tokens=8)
    same = store_here(again.datasets, again)
    assert (same.address, (same.directory / "manifest.json").stat().st_mtime_ns) == (store.address, built)
