"""Series of points: what a picture keeps of a long run."""

from __future__ import annotations

import numpy as np
import pytest

from bolt_ray.commands.report.series import axes, axes_at, bias, bins, calibration, columns, is_binned, starts, thinned

NAN = float("nan")


def test_columns_have_gaps_where_a_record_lacks_a_number() -> None:
    table = columns([{"step": 1, "a": 0.5, "text": "x"}, {"step": 2, "b": float("inf")}, {"step": 3, "a": 2, "b": 1.0}])
    assert set(table) == {"step", "a", "b"}
    np.testing.assert_array_equal(table["a"], [0.5, NAN, 2.0])
    np.testing.assert_array_equal(table["b"], [NAN, NAN, 1.0])


def test_a_short_run_keeps_every_step() -> None:
    column = np.arange(200.0)
    series = thinned(column, starts(200, buckets=100))
    np.testing.assert_array_equal(series.mean, column)
    assert series.low is None


def test_a_long_run_keeps_means_and_extremes() -> None:
    column = np.array([0.0, 2.0, 1.0, NAN, NAN, NAN, 9.0, -3.0])
    first = starts(8, buckets=3)
    assert first.tolist() == [0, 2, 5]
    series = thinned(column, first)
    assert series.low is not None and series.high is not None
    np.testing.assert_array_equal(series.mean, [1.0, 1.0, 3.0])
    np.testing.assert_array_equal(series.low, [0.0, 1.0, -3.0])
    np.testing.assert_array_equal(series.high, [2.0, 1.0, 9.0])
    assert np.isnan(thinned(np.full(8, NAN), first).mean).all()


@pytest.mark.parametrize("steps", [0, 1, 1200, 1201, 50_000])
def test_points_are_bounded_and_begin_at_the_first_step(steps: int) -> None:
    first = starts(steps)
    assert first.size <= 1200
    assert (np.diff(first) > 0).all()
    assert steps == 0 or first[0] == 0


def test_totals_of_a_run_are_its_own_or_added_up() -> None:
    table = columns(
        [
            {"step": 1, "time/step": 1800.0, "rollout/completions": 2.0, "completions/mean_length": 10.0},
            {"step": 2, "time/step": 1800.0, "rollout/completions": 2.0, "completions/mean_length": 20.0},
        ]
    )
    over = axes(table)
    assert over["hours"].tolist() == [0.5, 1.0]
    assert over["completions"].tolist() == [2.0, 4.0]
    assert over["tokens"].tolist() == [20.0, 60.0]
    known = axes(table | {"time/wall": np.array([3600.0, NAN]), "total/tokens": np.array([100.0, 900.0])})
    assert known["hours"].tolist() == [1.0, 1.0]
    assert known["tokens"].tolist() == [100.0, 900.0]
    at = axes_at(np.array([0.0, 1.0, 1.5]), over)
    assert at["step"].tolist() == [0.0, 1.0, 1.5]
    assert at["tokens"].tolist() == [0.0, 20.0, 40.0]
    assert axes({})["hours"].size == 0


def test_tenths_of_v_hat() -> None:
    table = columns([{"step": 1, "baseline/hist_0": 0.25, "baseline/hist_9": 0.75}])
    rows = bins(table, "baseline/hist", starts(1))
    assert rows is not None
    np.testing.assert_array_equal(rows[:, 0], [0.25, *[NAN] * 8, 0.75])
    assert bins(table, "curriculum/asked", starts(1)) is None
    assert is_binned("baseline/decile_v_hat_3")
    assert not is_binned("baseline/strength")


def test_bias_and_calibration_weigh_by_completions() -> None:
    def record(step: int, count: float, v_hat: float, reward: float) -> dict[str, float]:
        named = {"count": count, "v_hat": v_hat, "reward": reward}
        return {"step": step} | {f"baseline/decile_{name}_2": value for name, value in named.items()}

    table = columns([record(1, 1.0, 0.2, 0.2), record(2, 3.0, 0.24, 0.64), record(3, 2.0, 0.25, 0.0)])
    rows = bias(table, np.array([0, 2]))
    assert rows is not None
    np.testing.assert_allclose(rows[2], [0.3, -0.25])
    assert np.isnan(rows[3]).all()
    assert bias(columns([{"step": 1}]), starts(1)) is None
    whole, rest = calibration(table, parts=2)
    np.testing.assert_allclose(whole[:, 0], [0.23, 0.53, 4.0])
    np.testing.assert_allclose(rest[:, 0], [0.25, 0.0, 2.0])
