from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bolt_ray.core.curriculum.sampling import expected_draws
from bolt_ray.core.errors import CheckpointError
from bolt_ray.data.stream.draw_log import (
    DrawLog,
    WindowDraws,
    check_state,
    draw_indices,
    draw_window,
    relative_draws,
    window_rng,
)


def draws(window: int, rows: list[int]) -> WindowDraws:
    return WindowDraws(
        window=window,
        rows=np.array(rows, np.int64),
        num_samples=np.ones(len(rows), np.int32),
        weights=np.arange(1.0, len(rows) + 1.0),
    )


def test_the_generator_depends_on_seed_and_window_alone() -> None:
    first = window_rng(3, 5).random(4)
    np.testing.assert_array_equal(first, window_rng(3, 5).random(4))
    assert not np.array_equal(first, window_rng(3, 6).random(4))
    assert not np.array_equal(first, window_rng(5, 3).random(4))


def test_no_row_is_drawn_twice_and_the_order_is_random() -> None:
    drawn = draw_indices(np.ones(100), size=100, rng=window_rng(0, 0)).tolist()
    assert sorted(drawn) == list(range(100))
    assert drawn != list(range(100))


def test_draws_have_fixed_numbers() -> None:
    """A resumed run must draw what the interrupted one would have drawn."""
    drawn = draw_indices(np.arange(1.0, 21.0), size=6, rng=window_rng(7, 3))
    assert drawn.tolist() == [13, 3, 5, 8, 14, 10]


def test_a_small_store_repeats_its_rows_evenly() -> None:
    drawn = draw_indices(np.array([1.0, 5.0, 100.0]), size=8, rng=window_rng(0, 0))
    assert sorted(np.bincount(drawn).tolist()) == [2, 3, 3]


def test_weights_are_followed() -> None:
    weights = np.concatenate([np.full(500, 9.0), np.full(500, 1.0)])
    counts = sum(
        int(np.count_nonzero(draw_indices(weights, size=50, rng=window_rng(1, window)) < 500)) for window in range(40)
    )
    assert 0.87 < counts / 2000 < 0.92


@pytest.mark.parametrize("small_rows", [5000, 100])
def test_sources_come_out_at_their_weights(small_rows: int) -> None:
    """3:1 exactly, however few rows one source has and whatever its rows weigh."""
    source_ids = np.concatenate([np.zeros(5000, np.int32), np.ones(small_rows, np.int32)])
    weights = np.linspace(0.1, 3.0, source_ids.size)
    for window in range(3):
        drawn = draw_indices(
            weights,
            size=2560,
            rng=window_rng(0, window),
            source_ids=source_ids,
            source_weights=[3.0, 1.0],
        )
        assert np.bincount(source_ids[drawn]).tolist() == [1920, 640]


def test_uneven_shares_are_right_on_average() -> None:
    source_ids = np.repeat(np.arange(3, dtype=np.int32), 20)
    total = np.zeros(3)
    for window in range(400):
        drawn = draw_indices(
            np.ones(60),
            size=10,
            rng=window_rng(2, window),
            source_ids=source_ids,
            source_weights=[1.0, 1.0, 1.0],
        )
        counts = np.bincount(source_ids[drawn], minlength=3)
        assert set(counts.tolist()) <= {3, 4} and counts.sum() == 10
        total += counts
    np.testing.assert_allclose(total / total.sum(), 1 / 3, atol=0.01)


def test_a_source_without_rows_leaves_its_share_to_the_others() -> None:
    drawn = draw_indices(
        np.ones(4),
        size=4,
        rng=window_rng(0, 0),
        source_ids=np.full(4, 1, np.int32),
        source_weights=[3.0, 1.0, 2.0],
    )
    assert sorted(drawn.tolist()) == [0, 1, 2, 3]


def test_draws_are_kept_on_disk(tmp_path: Path) -> None:
    log = DrawLog(tmp_path / "draws", store_address="abc")
    for window in range(3):
        log.write(draws(window, [window, 7]))
    assert log.read(1).rows.tolist() == [1, 7]
    log.drop_from(2)
    with pytest.raises(CheckpointError, match="window 2 cannot be read"):
        log.read(2)
    with pytest.raises(CheckpointError, match=r"drawn from prompt store abc.*now make xyz"):
        DrawLog(tmp_path / "draws", store_address="xyz").read(1)


def test_damaged_draws_are_refused(tmp_path: Path) -> None:
    log = DrawLog(tmp_path, store_address="abc")
    log.write(draws(0, list(range(100))))
    path = tmp_path / "window-000000.npz"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="earlier checkpoint"):
        log.read(0)


def test_state_of_other_settings_is_refused() -> None:
    check_state({"seed": 1, "more": 2}, {"seed": 1})
    with pytest.raises(CheckpointError, match="saved with seed 2 and now has 1"):
        check_state({"seed": 2}, {"seed": 1})


def edge_share(*, distinct: int) -> tuple[float, float]:
    """What the weights ask of 7,000 prompts whose success rate is known, and what ten steps of 512 draw: the share of
    those with a rate of 0.3 to 0.7."""
    rate = np.random.default_rng(0).beta(1.2, 1.0, size=7000)
    weights = np.sqrt(rate * (1.0 - rate)) + 0.05
    edge = (rate >= 0.3) & (rate <= 0.7)
    windows = [draw_window(weights, size=5120, distinct=distinct, rng=window_rng(3, n)) for n in range(20)]
    return float(weights[edge].sum() / weights.sum()), float(edge[np.concatenate(windows)].mean())


def test_a_step_is_drawn_as_the_weights_ask() -> None:
    asked, drawn = edge_share(distinct=512)
    assert drawn == pytest.approx(asked, abs=0.03)


def test_a_long_window_without_repeats_undoes_the_weights() -> None:
    """Why that is not the default."""
    asked, drawn = edge_share(distinct=5120)
    assert asked - drawn > 0.03


def test_no_row_comes_twice_within_the_distinct_draws() -> None:
    drawn = draw_window(np.ones(40), size=70, distinct=30, rng=window_rng(0, 0))
    assert [len(set(drawn[part].tolist())) for part in (slice(30), slice(30, 60), slice(60, 70))] == [30, 30, 10]
    assert len(set(drawn.tolist())) > 30


def test_of_few_draws_it_is_the_weight_over_the_mean() -> None:
    weights = np.tile([1.0, 2.0, 3.0, 10.0], 5_000)
    drawn = np.array([3, 0, 3])
    np.testing.assert_allclose(relative_draws(weights, drawn, distinct=2), [2.5, 0.25, 2.5], rtol=1e-3)
    # Sources come at shares of their own, which no weight undoes.
    source_ids = np.tile(np.array([0, 0, 1, 1], dtype=np.int32), 5_000)
    found = relative_draws(weights, drawn, distinct=4, source_ids=source_ids, source_weights=[3.0, 1.0])
    np.testing.assert_allclose(found, [10 / 6.5, 1 / 1.5, 10 / 6.5], rtol=2e-3)


@pytest.mark.parametrize(("rows", "distinct"), [(2000, 64), (1000, 512), (500, 512), (64, 192)])
def test_draws_divided_by_how_often_they_come_are_worth_uniform_ones(rows: int, distinct: int) -> None:
    """What curriculum.importance 1 rests on, however many of the rows a step draws."""
    weights = np.linspace(0.05, 0.55, rows)
    worth = np.linspace(0.0, 1.0, rows) ** 2
    corrected = []
    for window in range(300):
        drawn = draw_indices(weights, size=distinct, rng=window_rng(0, window))
        corrected.append((worth[drawn] / relative_draws(weights, drawn, distinct=distinct)).mean())
    assert np.mean(corrected) == pytest.approx(worth.mean(), abs=0.01)


def test_draws_of_a_skewed_curriculum_are_counted_right() -> None:
    """Half the draws are of ten heavy rows, which all come every time."""
    weights = np.concatenate([np.full(10, 1e6), np.full(990, 1.0)])
    expected = expected_draws(weights, 20, np.arange(1000))
    np.testing.assert_allclose(expected[:10], 1.0, atol=1e-6)
    np.testing.assert_allclose(expected[10:], 10 / 990, rtol=0.05)
    assert expected.sum() == pytest.approx(20, rel=1e-3)


def test_windows_of_earlier_versions_have_no_weights(tmp_path: Path) -> None:
    log = DrawLog(tmp_path, store_address="a")
    written = draws(0, [4, 2])
    log.write(written)
    np.testing.assert_array_equal(log.read(0).weights, [1.0, 2.0])
    address = np.frombuffer(b"a", dtype=np.uint8)
    np.savez(tmp_path / "window-000001.npz", rows=written.rows, num_samples=written.num_samples, store=address)
    np.testing.assert_array_equal(log.read(1).weights, [1.0, 1.0])
