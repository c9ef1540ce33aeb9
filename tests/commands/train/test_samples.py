"""The samples of a whole training with stand-ins: everything a row says comes from where it should."""

from __future__ import annotations

from typing import Any

import pytest
from support.effects import Workplace, config_of
from support.fakes import logprobs_of
from support.models import make_model
from support.wired_run import run_once


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """By file: four steps of two prompts with two answers each, and evaluations before and after them."""
    root = tmp_path_factory.mktemp("samples")
    here = Workplace(directory=root / "here", model=make_model(root / "model", tie_embeddings=True))
    here.directory.mkdir()
    (here.directory / "model").symlink_to(here.model)
    settings = {"rollout.group_size": 2, "data.heldout_size": 3, "samples.all": True, "eval.num_samples": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here.directory)
        run = run_once(config_of(settings), here)
    assert run["problem"] == ""
    return run["samples"]


def test_there_is_a_file_for_each_step_and_evaluation(samples: dict[str, Any]) -> None:
    assert list(samples) == ["eval-000000", *(f"step-{step:06d}" for step in (1, 2, 3)), "eval-000004", "step-000004"]


def test_rows_of_a_step(samples: dict[str, Any]) -> None:
    for step in range(1, 5):
        rows = samples[f"step-{step:06d}"]
        assert [row["step"] for row in rows] == [step] * 4
        for i, row in enumerate(rows):
            request = 4 * (step - 1) + i
            assert (row["prompt_id"], row["sample_index"], row["group_id"]) == (
                f"key-{request // 2}",
                request % 2,
                request // 2,
            )
            assert (row["v_hat"], row["visits"], row["draw_weight"]) == (0.25, 3, 0.5 + request // 2 % 3)
            assert (row["policy_version"], row["oldest_version"], row["newest_version"]) == (step - 1,) * 3
            assert row["mean_logprob"] == pytest.approx(sum(logprobs_of(request)) / len(logprobs_of(request)))
            assert (row["prompt"], row["answer"], row["truncated"]) == ("1+1=", "2", request % 3 == 0)
            scored = request % 8 != 7
            assert row["reward"] == (pytest.approx(0.4 + request % 4 / 5) if scored else None)
            assert row["gap"] == (0.0 if scored else None)
            assert (row["advantage"] is None, row["unscored"] is not None) == (not scored, not scored)


def test_rows_of_an_evaluation(samples: dict[str, Any]) -> None:
    first, last = samples["eval-000000"], samples["eval-000004"]
    assert [row["sample_index"] for row in first] == [0, 1] * 3
    assert [row["prompt_id"] for row in first] == [row["prompt_id"] for row in last]
    assert [row["completion"] for row in first] == [row["completion"] for row in last], "the same seeds"
    assert [row["policy_version"] for row in (*first, *last)] == [0] * 6 + [4] * 6
    assert all(row["correct"] is (row["reward"] == 1.0) for row in first if row["unscored"] is None)
    assert {row["correct"] for row in first} == {True, False}
