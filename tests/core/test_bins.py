"""The bin scheduler."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bolt_ray.core.bins import CurriculumScheduler
from bolt_ray.core.curriculum.binning import bin_probabilities


def hundred_items(binning: str, **settings: Any) -> CurriculumScheduler:
    """Items "0" ... "99" with scores .00 ... .99, rebinned at the 50th and the 100th update."""
    scheduler = CurriculumScheduler(binning=binning, **settings)
    for i in range(100):
        scheduler.update(str(i), i / 100)
    return scheduler


def bin_counts(scheduler: CurriculumScheduler) -> list[int]:
    metrics = scheduler.metrics_dict()
    return [int(metrics[f"curriculum/bin_{i}_count"]) for i in range(scheduler.n_bins)]


def test_compatible_binning_leaves_bin_0_the_maximum_only() -> None:
    scheduler = hundred_items("compatible")
    assert bin_counts(scheduler) == [1, 20, 20, 20, 39]
    assert scheduler.state_dict()["bin_boundaries"] == [0.99, 0.79, 0.59, 0.39, 0.19]
    assert scheduler.get_item_bin("99") == 0
    assert scheduler.get_item_bin("98") == 1
    assert scheduler.get_item_bin("0") == 4


def test_quantile_binning_cuts_equal_bins() -> None:
    scheduler = hundred_items("quantile")
    assert bin_counts(scheduler) == [20, 20, 20, 20, 20]
    assert scheduler.state_dict()["bin_boundaries"] == [0.8, 0.6, 0.4, 0.2, 0.0]
    assert [scheduler.get_item_bin(key) for key in ("99", "80", "79", "20", "19")] == [0, 0, 1, 3, 4]


def test_fewer_items_than_bins() -> None:
    scores = {"a": 1.0, "b": 0.5, "c": 0.0}
    compatible, quantile = CurriculumScheduler(), CurriculumScheduler(binning="quantile")
    for key, score in scores.items():
        compatible.update(key, score)
        quantile.update(key, score)
    # max - i (max - min) / 5 = 1, .8, .6, .4, .2
    assert [compatible.get_item_bin(key) for key in scores] == [0, 3, 4]
    # ceil((i + 1) 3 / 5) - 1 = 0, 1, 1, 2, 2 of the scores in descending order
    assert [quantile.get_item_bin(key) for key in scores] == [0, 1, 3]


def test_equal_scores_share_the_first_bin() -> None:
    for binning in ("compatible", "quantile"):
        scheduler = CurriculumScheduler(binning=binning)
        for i in range(60):
            scheduler.update(str(i), 0.5)
        assert bin_counts(scheduler) == [60, 0, 0, 0, 0]
        assert {scheduler.sample_bin() for _ in range(50)} == {0}


def test_the_average_starts_at_the_first_score() -> None:
    scheduler = CurriculumScheduler(ema_alpha=0.3)
    assert scheduler.get_item_difficulty("a") is None
    scheduler.update("a", 1.0)
    assert scheduler.get_item_difficulty("a") == 1.0
    scheduler.update("a", 0.0)
    assert scheduler.get_item_difficulty("a") == pytest.approx(0.7)
    scheduler.update_batch("a", [1.0, 1.0, 0.0, 0.0])  # one update with the mean, .5
    assert scheduler.get_item_difficulty("a") == pytest.approx(0.3 * 0.5 + 0.7 * 0.7)
    scheduler.update_batch("a", [])
    assert scheduler.state_dict()["item_scores"]["a"][1] == 3
    assert scheduler.n_items_tracked == 1


def test_untracked_items_are_in_the_middle() -> None:
    assert CurriculumScheduler().get_item_bin("new") == 2
    assert CurriculumScheduler(n_bins=4).get_item_bin("new") == 2
    assert CurriculumScheduler(n_bins=1).get_item_bin("new") == 0


def test_bins_move_only_at_every_50th_update() -> None:
    scheduler = CurriculumScheduler(binning="quantile", ema_alpha=1.0)
    for i in range(50):
        scheduler.update(str(i), i / 50)
    for i in range(49):  # all fall to -1; the boundaries are still those of the 50th update
        scheduler.update(str(i), -1.0)
    scheduler.update("another", 5.0 - 4.5)
    # That was the 100th: 49 at -1, then .5 and .98.
    state = scheduler.state_dict()
    assert state["last_rebin_count"] == 100
    assert state["bin_boundaries"] == [-1.0, -1.0, -1.0, -1.0, -1.0]
    scheduler.update("0", 2.0)
    assert scheduler.state_dict()["bin_boundaries"] == [-1.0] * 5


class EagerBoundaries:
    """The rule read literally: sum the counts and sort everything at the update where a rebinning is due."""

    def __init__(self, n_bins: int, alpha: float) -> None:
        self.n_bins, self.alpha = n_bins, alpha
        self.items: dict[str, tuple[float, int]] = {}
        self.last, self.boundaries = 0, list[float]()

    def update(self, key: str, score: float) -> None:
        old = self.items.get(key)
        average = score if old is None else self.alpha * score + (1 - self.alpha) * old[0]
        self.items[key] = (average, 1 if old is None else old[1] + 1)
        total = sum(count for _, count in self.items.values())
        if total - self.last >= 50:
            descending = sorted((average for average, _ in self.items.values()), reverse=True)
            size = len(descending)
            places = [math.ceil((i + 1) * size / self.n_bins) - 1 for i in range(self.n_bins)]
            self.boundaries, self.last = [descending[place] for place in places], total


@settings(max_examples=30, deadline=None)
@given(
    updates=st.lists(st.tuples(st.integers(0, 30), st.floats(-2, 2)), min_size=50, max_size=230),
    reads=st.sets(st.integers(50, 230)),
)
def test_boundaries_worked_out_late_equal_those_of_the_moment(
    updates: list[tuple[int, float]], reads: set[int]
) -> None:
    scheduler, eager = CurriculumScheduler(binning="quantile"), EagerBoundaries(5, 0.3)
    for count, (key, score) in enumerate(updates, start=1):
        scheduler.update(str(key), score)
        eager.update(str(key), score)
        if count in reads:
            assert scheduler.state_dict()["bin_boundaries"] == eager.boundaries
    assert scheduler.state_dict()["bin_boundaries"] == eager.boundaries
    assert scheduler.state_dict()["last_rebin_count"] == eager.last


def test_easy_first_probabilities() -> None:
    start = np.exp([0.0, -0.5, -1.0, -1.5, -2.0])
    np.testing.assert_allclose(
        bin_probabilities("easy_first", 5, step=0, total_steps=100), start / start.sum(), rtol=1e-12
    )
    half = 0.5 * start + 0.1
    np.testing.assert_allclose(
        bin_probabilities("easy_first", 5, step=50, total_steps=100), half / half.sum(), rtol=1e-12
    )
    np.testing.assert_allclose(bin_probabilities("easy_first", 5, step=300, total_steps=100), [0.2] * 5)
    np.testing.assert_allclose(bin_probabilities("easy_first", 1, step=0, total_steps=0), [1.0])


def test_competence_probabilities() -> None:
    # t = .25: the center is bin 1. exp(-.5), 1, exp(-.5), exp(-2), exp(-4.5) over their sum 2.35950560
    np.testing.assert_allclose(
        bin_probabilities("competence_based", 5, step=25, total_steps=100),
        [0.25705836, 0.42381760, 0.25705836, 0.05735747, 0.00470819],
        rtol=2e-6,
    )
    last = bin_probabilities("competence_based", 5, step=100, total_steps=100)
    first = bin_probabilities("competence_based", 5, step=0, total_steps=100)
    np.testing.assert_allclose(last, first[::-1])
    np.testing.assert_allclose(bin_probabilities("uniform", 4, step=3, total_steps=9), [0.25] * 4)


def test_temperature_sharpens_and_flattens() -> None:
    p = bin_probabilities("easy_first", 5, step=0, total_steps=10)
    sharp = bin_probabilities("easy_first", 5, step=0, total_steps=10, temperature=0.5)
    np.testing.assert_allclose(sharp, p**2 / (p**2).sum())
    flat = bin_probabilities("easy_first", 5, step=0, total_steps=10, temperature=4.0)
    np.testing.assert_allclose(flat, p**0.25 / (p**0.25).sum())
    coldest = bin_probabilities("competence_based", 5, step=0, total_steps=10, temperature=0.01)
    np.testing.assert_allclose(coldest, [1.0, 0, 0, 0, 0], atol=1e-20)
    # 1e-10 is the least a bin counts before the temperature: with 30 bins the last is e^-420.
    wide = bin_probabilities("competence_based", 30, step=0, total_steps=10, temperature=10.0)
    assert wide[-1] / wide[0] == pytest.approx((1e-10 / 0.5703484) ** 0.1, rel=1e-6)


def test_competence_threshold_centres_the_frontier_in_quantile_mode() -> None:
    half_way = {"current_step": 50, "total_steps": 100}
    for threshold, frontier in ((0.9, 0), (0.7, 1), (0.5, 2), (0.1, 4)):
        scheduler = hundred_items("quantile", strategy="competence_based", competence_threshold=threshold)
        expected = np.exp(-0.5 * (np.arange(5) - frontier) ** 2)
        np.testing.assert_allclose(scheduler.probabilities(**half_way), expected / expected.sum())
        for step, end in ((0, 0), (100, 4)):
            assert int(scheduler.probabilities(step, 100).argmax()) == end
    compatible = hundred_items("compatible", strategy="competence_based", competence_threshold=0.9)
    assert int(compatible.probabilities(**half_way).argmax()) == 2


@pytest.mark.parametrize("strategy", ["uniform", "easy_first", "competence_based"])
def test_sampled_bins_follow_the_probabilities(strategy: str) -> None:
    scheduler = hundred_items("quantile", strategy=strategy, seed=11)
    counts = Counter(scheduler.sample_bin(30, 100) for _ in range(5000))
    expected = scheduler.probabilities(30, 100) * 5000
    chi_square = sum((counts[i] - e) ** 2 / e for i, e in enumerate(expected))
    assert chi_square < 20.0  # 4 degrees of freedom, tail 5e-4


def test_without_items_every_bin_is_sampled() -> None:
    scheduler = CurriculumScheduler(n_bins=3)
    assert {scheduler.sample_bin() for _ in range(200)} == {0, 1, 2}


def test_items_are_sampled_from_occupied_bins_only() -> None:
    scheduler = hundred_items("quantile", strategy="competence_based", seed=3, temperature=0.01)
    # At the end of the run the hardest bin has all the probability, but these are the easiest items.
    candidates = [str(i) for i in range(80, 100)]
    sampled = {scheduler.sample_item(candidates, 100, 100) for _ in range(300)}
    assert sampled <= set(candidates)
    assert len(sampled) > 15
    assert scheduler.sample_item(["never seen"], 100, 100) == "never seen"
    with pytest.raises(ValueError, match="from none"):
        scheduler.sample_item([])


def test_metrics() -> None:
    scheduler = CurriculumScheduler(n_bins=2)
    assert scheduler.metrics_dict() == {
        "curriculum/items_tracked": 0.0,
        "curriculum/total_updates": 0.0,
        "curriculum/bin_0_count": 0.0,
        "curriculum/bin_1_count": 0.0,
    }
    for key, score in (("a", 1.0), ("a", 1.0), ("b", 0.0)):
        scheduler.update(key, score)
    assert scheduler.metrics_dict() == {
        "curriculum/items_tracked": 2.0,
        "curriculum/total_updates": 3.0,
        "curriculum/mean_difficulty": 0.5,
        "curriculum/min_difficulty": 0.0,
        "curriculum/max_difficulty": 1.0,
        "curriculum/bin_0_count": 1.0,
        "curriculum/bin_1_count": 1.0,
    }


def test_a_restored_scheduler_goes_on_the_same() -> None:
    left = hundred_items("quantile", strategy="easy_first", temperature=0.7, seed=5)
    left.update("3", 0.9)
    left.sample_bin()
    right = CurriculumScheduler()
    right.load_state_dict(json.loads(json.dumps(left.state_dict())))
    assert right.strategy == "easy_first"
    assert right.state_dict() == left.state_dict()
    for i in range(120):
        left.update(str(i % 7), 0.1 * (i % 3))
        right.update(str(i % 7), 0.1 * (i % 3))
        assert left.sample_bin(i, 120) == right.sample_bin(i, 120)
    assert right.state_dict() == left.state_dict()


def test_state_is_copied_both_ways() -> None:
    scheduler = hundred_items("compatible")
    state = scheduler.state_dict()
    other = CurriculumScheduler()
    other.load_state_dict(state)
    state["item_scores"]["0"] = (0.77, 5)
    state["bin_boundaries"][0] = 44.0
    assert scheduler.get_item_difficulty("0") == 0.0
    assert other.get_item_difficulty("0") == 0.0
    assert other.state_dict()["bin_boundaries"][0] == 0.99


def test_a_state_of_an_earlier_system_loads() -> None:
    scheduler = CurriculumScheduler(binning="quantile")
    scheduler.load_state_dict(
        {
            "strategy": "uniform",
            "n_bins": 2,
            "temperature": 1.0,
            "ema_alpha": 0.3,
            "competence_threshold": 0.5,
            "item_scores": {"a": [0.25, 3]},
            "bin_boundaries": [],
            "last_rebin_count": 0,
        }
    )
    assert scheduler.binning == "compatible"
    assert scheduler.get_item_difficulty("a") == 0.25
    assert scheduler.metrics_dict()["curriculum/total_updates"] == 3.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strategy": "hard_first"}, "unknown curriculum strategy 'hard_first'"),
        ({"n_bins": 0}, "n_bins is 0"),
        ({"n_bins": 2.5}, "n_bins is 2.5; expected an integer"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"ema_alpha": "0.3"}, "ema_alpha is '0.3'"),
        ({"binning": "other"}, "unknown binning 'other'"),
        ({"item_scores": [1]}, "item_scores is a list"),
        ({"item_scores": {"a": 0.5}}, r"item_scores\['a'\] is 0.5"),
        ({"item_scores": {"a": (math.inf, 1)}}, "finite average"),
        ({"item_scores": {"a": (0.5, 0)}}, "count >= 1"),
        ({"bin_boundaries": [0.5, 0.4]}, "expected 5 numbers"),
        ({"bin_boundaries": [0.1, 0.2, 0.3, 0.4, 0.5]}, "descending"),
        ({"bin_boundaries": [math.nan] * 5}, "finite numbers"),
        ({"last_rebin_count": 101}, "from 0 to 100"),
        ({"last_rebin_count": -1}, "from 0 to 100"),
        ({"rng": {"bit_generator": "MT19937"}}, "PCG64"),
        ({"rng": 3}, "PCG64"),
    ],
)
def test_a_bad_state_is_refused_and_the_old_one_kept(change: dict[str, Any], message: str) -> None:
    scheduler = hundred_items("quantile", seed=2)
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match=message):
        scheduler.load_state_dict({**before, **change})
    assert scheduler.state_dict() == before


def test_an_incomplete_state_is_refused() -> None:
    state = CurriculumScheduler().state_dict()
    del state["item_scores"], state["n_bins"]
    with pytest.raises(ValueError, match="lacks n_bins, item_scores"):
        CurriculumScheduler().load_state_dict(state)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(score: float) -> None:
    scheduler = CurriculumScheduler()
    scheduler.update("a", 0.5)
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match="is not finite"):
        scheduler.update("a", score)
    with pytest.raises(ValueError, match="is not finite"):
        scheduler.update_batch("a", [0.5, score])
    assert scheduler.state_dict() == before


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="known: uniform, easy_first, competence_based"):
        CurriculumScheduler(strategy="hardest")
    with pytest.raises(ValueError, match="n_bins is 0"):
        CurriculumScheduler(n_bins=0)
    with pytest.raises(ValueError, match="unknown binning"):
        CurriculumScheduler(binning="equal")
    with pytest.raises(ValueError, match="temperature is nan"):
        CurriculumScheduler(temperature=math.nan)
    assert CurriculumScheduler(temperature=0.0).temperature == 0.01
    assert CurriculumScheduler(ema_alpha=1.5).ema_alpha == 1.0
    assert CurriculumScheduler(ema_alpha=-0.5).ema_alpha == 0.0
