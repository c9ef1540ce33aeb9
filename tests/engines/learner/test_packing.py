"""From columns to rows: the layout by hand, and packed against padded training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.learner_cases import largest_difference, make_batch, make_model, weights_of
from support.settings import learner_settings
from torch import Tensor

from bolt_ray.core.batching import EMPTY_MICRO_BATCH, MicroBatchPlan
from bolt_ray.engines.learner.learner import DeepSpeedLearner
from bolt_ray.engines.learner.model import load_policy, packing_self_test
from bolt_ray.engines.learner.packing import TokenColumns, build_micro_batch, ragged_arange

CPU = torch.device("cpu")


def columns() -> TokenColumns:
    """Sequences 10 11 | 12, 20 | 21 22 23 and 30 31 (prompt | completion); the third completes nothing."""
    return TokenColumns.build(np.array([10, 11, 12, 20, 21, 22, 23, 30, 31]), np.array([2, 1, 2]), np.array([1, 3, 0]))


def test_packed_rows_by_hand() -> None:
    plan = MicroBatchPlan(rows=((1, 2), (0,)), row_length=6)
    batch = build_micro_batch(columns(), plan, device=CPU)
    assert batch.input_ids.tolist() == [[20, 21, 22, 23, 30, 31], [10, 11, 12, 0, 0, 0]]
    assert batch.position_ids is not None
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1], [0, 1, 2, 0, 1, 2]]
    assert batch.predict.tolist() == [0, 1, 2, 7]
    assert batch.targets.tolist() == [21, 22, 23, 12]
    assert batch.sequence_ids.tolist() == [0, 0, 0, 2]
    assert batch.sequences.tolist() == [1, 2, 0]
    assert batch.token_index.tolist() == [1, 2, 3, 0]


def test_one_sequence_per_row_needs_no_positions() -> None:
    plan = MicroBatchPlan(rows=((1,), (0,)), row_length=4)
    batch = build_micro_batch(columns(), plan, device=CPU)
    assert batch.position_ids is None
    assert batch.input_ids.tolist() == [[20, 21, 22, 23], [10, 11, 12, 0]]


def test_empty_plan_predicts_nothing() -> None:
    batch = build_micro_batch(columns(), EMPTY_MICRO_BATCH, device=CPU)
    assert batch.input_ids.shape == (1, 1)
    assert batch.targets.numel() == batch.predict.numel() == len(batch.token_index) == 0


def test_ragged_arange() -> None:
    assert ragged_arange(np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]


def test_prompts_must_not_be_empty() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        TokenColumns.build(np.array([1]), np.array([0]), np.array([1]))


@pytest.mark.parametrize("shift", [0.1, float("nan")])
def test_a_model_that_mixes_packed_sequences_up_is_not_packed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shift: float
) -> None:
    module = load_policy(learner_settings(model_path=make_model(tmp_path)), dtype=torch.float32)

    def mixing(input_ids: Tensor, position_ids: Tensor | None, predict: Tensor, targets: Tensor) -> Any:
        logprobs, *others = module(input_ids, position_ids, predict, targets)
        return logprobs + (0.0 if position_ids is None else shift), *others

    assert packing_self_test(module, module, dtype=torch.float32, device=CPU)
    assert not packing_self_test(mixing, module, dtype=torch.float32, device=CPU)
    assert "packing is off: packed sequences change each other's log-probs by" in caplog.text


@pytest.mark.parametrize("loss_budget", [400, 48])
def test_packed_and_padded_train_alike(tmp_path: Path, loss_budget: int) -> None:
    path = make_model(tmp_path)
    results = []
    for packing in (True, False):
        learner = DeepSpeedLearner(
            learner_settings(
                model_path=path,
                dtype="float32",
                learning_rate=1e4,
                adam_epsilon=1e4,
                max_grad_norm=1e9,
                packing=packing,
                micro_batch_tokens=loss_budget,
            )
        )
        report = learner.train_step(make_batch())
        results.append((report.metrics["loss/total"], report.logprobs_before, weights_of(learner)))
        learner.close()
    (packed_loss, packed_before, packed), (padded_loss, padded_before, padded) = results
    assert packed_loss == pytest.approx(padded_loss, abs=1e-6)
    np.testing.assert_allclose(packed_before, padded_before, atol=1e-5)
    assert largest_difference(packed, padded) < 1e-5
