"""``bolt-ray doctor``: what it accepts, and a real pair of engines."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from support.training_runs import check_printed_agreement

from bolt_ray.cli import main
from bolt_ray.commands.doctor import Agreement, check_agreement, max_gap
from bolt_ray.core.errors import WeightSyncError

AGREES = {"loaded": 1e-6, "synced": 0.01, "moved": 0.5}


def test_the_gap_is_the_largest_and_keeps_nan() -> None:
    first = [np.array([-1.0, -2.0], dtype=np.float32), np.array([-0.5], dtype=np.float32)]
    second = [np.array([-1.25, -2.0], dtype=np.float32), np.array([-3.0], dtype=np.float32)]
    assert max_gap(first, second) == 2.5
    assert max_gap(second, first) == 2.5
    for place in ((0, 0), (0, 1), (1, 0)):
        broken = [values.copy() for values in second]
        broken[place[0]][place[1]] = np.nan
        assert math.isnan(max_gap(first, broken)), place
        assert math.isnan(max_gap(broken, first)), place


def test_agreement_is_accepted() -> None:
    check_agreement(Agreement(**AGREES), limit=0.01)


@pytest.mark.parametrize("gap", [0.011, math.nan, math.inf])
@pytest.mark.parametrize("which", ["loaded", "synced"])
def test_a_gap_over_the_limit_or_not_a_number_is_refused(which: str, gap: float) -> None:
    with pytest.raises(WeightSyncError, match="generator and learner disagree"):
        check_agreement(Agreement(**AGREES | {which: gap}), limit=0.01)


@pytest.mark.parametrize("moved", [0.0, 0.01, math.nan])
def test_a_step_that_moves_too_little_proves_nothing(moved: float) -> None:
    with pytest.raises(WeightSyncError, match="cannot be told"):
        check_agreement(Agreement(**AGREES | {"moved": moved}), limit=0.01)


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
def test_doctor_proves_agreement(
    ray_cluster: None,
    tied_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With an adapter: the README's example in test_docs.py."""
    monkeypatch.setattr(sys, "argv", ["bolt-ray", "doctor", "--model", str(tied_model)])
    with pytest.raises(SystemExit) as leave:
        main()
    assert leave.value.code in (None, 0)
    check_printed_agreement(capsys.readouterr().out, sent="all weights")
