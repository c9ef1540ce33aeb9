"""Each strategy's weights, compared with numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bolt_ray.core.bins import CurriculumScheduler
from bolt_ray.core.curriculum import CurriculumSettings, PromptColumns, ScoredDraws, make_strategy


def columns_of(
    v_hat: list[float] | NDArray[Any], n_eff: float | list[float] = 8.0, category: list[int] | None = None
) -> PromptColumns:
    n = len(v_hat)
    return PromptColumns(
        v_hat=np.array(v_hat, dtype=np.float32),
        n_eff=np.broadcast_to(np.array(n_eff, dtype=np.float32), (n,)),
        visits=np.ones(n, dtype=np.int32),
        solved_streak=np.zeros(n, dtype=np.int32),
        last_version=np.zeros(n, dtype=np.int32),
        category=None if category is None else np.array(category, dtype=np.int32),
    )


def trained(categories: list[int] | None, abs_advantages: list[float]) -> ScoredDraws:
    n = len(abs_advantages)
    return ScoredDraws(
        rows=np.arange(n),
        rewards=np.zeros(n),
        abs_advantages=np.array(abs_advantages, dtype=np.float64),
        trained=np.ones(n, dtype=np.bool_),
        categories=None if categories is None else np.array(categories, dtype=np.int64),
    )


def probabilities(columns: PromptColumns, *, step: int = 0, seed: int = 0, **kwargs: Any) -> NDArray[np.float64]:
    strategy = make_strategy(CurriculumSettings(**kwargs))
    rng = np.random.default_rng(seed)
    weights = strategy.weights(columns, step=step, total_steps=100, rng=rng)
    return weights / weights.sum()


def test_uniform() -> None:
    np.testing.assert_allclose(probabilities(columns_of([0.0, 0.5, 1.0]), strategy="uniform"), [1 / 3] * 3)


def test_uncertainty() -> None:
    columns = columns_of([0.0, 0.1, 0.5, 0.9, 1.0])
    expected = [0.037037, 0.259259, 0.407407, 0.259259, 0.037037]
    np.testing.assert_allclose(probabilities(columns, strategy="uncertainty"), expected, atol=1e-6)


def test_uncertainty_divided_by_evidence() -> None:
    columns = columns_of([0.5, 0.5, 0.5], n_eff=[1.0, 4.0, 0.0])
    weights = make_strategy(CurriculumSettings(strategy="uncertainty", gamma=0.5)).weights(
        columns, step=0, total_steps=1, rng=np.random.default_rng(0)
    )
    # No evidence at all counts as a thousandth of an observation, so that the weight stays finite.
    np.testing.assert_allclose(weights, [0.55, 0.3, 0.5 / np.sqrt(1e-3) + 0.05], rtol=1e-6)


def test_cures() -> None:
    columns = columns_of([0.5, 0.1, 1.0])
    expected = np.exp([0.5, 0.3, 0.0])
    np.testing.assert_allclose(probabilities(columns, strategy="cures"), expected / expected.sum(), rtol=1e-6)
    sharp = np.exp([5.0, 3.0, 0.0])
    np.testing.assert_allclose(
        probabilities(columns, strategy="cures", temperature=0.1), sharp / sharp.sum(), rtol=1e-6
    )


def test_easy_first_spreads_a_bins_probability_over_its_prompts() -> None:
    # Ten prompts, five quantile bins of two; written shuffled.
    v_hat = np.array([0.1, 0.9, 0.3, 0.7, 0.5, 0.2, 1.0, 0.4, 0.8, 0.6])
    bins = np.array([4, 0, 3, 1, 2, 4, 0, 3, 1, 2])
    p = np.exp([0.0, -0.5, -1.0, -1.5, -2.0])
    expected = p[bins] / p.sum() / 2
    np.testing.assert_allclose(probabilities(columns_of(v_hat), strategy="easy_first"), expected, rtol=1e-9)
    end = probabilities(columns_of(v_hat), strategy="easy_first", step=100)
    np.testing.assert_allclose(end, [0.1] * 10)


def test_competence_moves_from_easy_to_hard() -> None:
    v_hat = np.linspace(0.05, 0.95, 10)
    for step, center in ((0, 0.0), (50, 2.0), (75, 3.0), (100, 4.0)):
        p = np.exp(-0.5 * (np.arange(5) - center) ** 2)
        expected = np.repeat(p[::-1] / p.sum() / 2, 2)
        got = probabilities(columns_of(v_hat), strategy="competence_based", step=step)
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_competence_stands_half_way_at_the_target() -> None:
    # Nearly all is solved: only the hardest fifth is below one half, so that is where the frontier is.
    v_hat = [0.2, 0.3, *[0.9 + 0.01 * i for i in range(8)]]
    got = probabilities(columns_of(v_hat), strategy="competence_based", step=50)
    p = np.exp(-0.5 * (np.arange(5) - 4.0) ** 2)
    np.testing.assert_allclose(got, np.repeat(p[::-1] / p.sum() / 2, 2), rtol=1e-9)


def test_empty_bins_hand_their_probability_to_the_others() -> None:
    # 6 of 10 are equal: they fill bin 0 whose boundary they are, bins 1 and 2 are empty.
    v_hat = [0.5] * 6 + [0.4, 0.3, 0.2, 0.1]
    p = np.exp([0.0, -1.5, -2.0])
    p /= p.sum()
    expected = [p[0] / 6] * 6 + [p[1] / 2] * 2 + [p[2] / 2] * 2
    np.testing.assert_allclose(probabilities(columns_of(v_hat), strategy="easy_first"), expected, rtol=1e-9)
    unseen = probabilities(columns_of([0.5] * 4), strategy="competence_based")
    np.testing.assert_allclose(unseen, [0.25] * 4)


def test_thompson_ranks_by_distance_from_the_target() -> None:
    # Ten million observations each: theta is v_hat, up to a thousandth.
    v_hat = [0.9, 0.5, 0.1, 0.7, 0.25]
    got = probabilities(columns_of(v_hat, n_eff=1e7), strategy="thompson", target=0.75)
    # Distances .15 .25 .65 .05 .5 are ranks 1 2 4 0 3 of five.
    weights = np.exp(-np.array([1, 2, 4, 0, 3]) / 5 / 0.1)
    np.testing.assert_allclose(got, weights / weights.sum(), rtol=1e-9)


def test_thompson_draws_anew_and_prefers_open_prompts() -> None:
    v_hat = np.repeat([0.5, 0.97], [100, 900])
    columns = columns_of(v_hat, n_eff=30.0)
    one = probabilities(columns, strategy="thompson", seed=1)
    assert (one != probabilities(columns, strategy="thompson", seed=2)).any()
    assert one[:100].sum() > 0.5  # a tenth of the prompts
    assert one.min() > 0.0


def test_thompson_gives_equal_draws_equal_weights() -> None:
    # Beta(8, .001) is 1 to the last bit nearly always: row numbers must not decide among such prompts.
    got = probabilities(columns_of([1.0] * 200 + [0.5]), strategy="thompson")
    assert np.unique(got[:200]).size < 10
    assert got[200] == got.max()


def test_sec_learns_per_category() -> None:
    columns = columns_of([0.5] * 6, category=[0, 0, 0, 0, 1, 2])
    strategy = make_strategy(CurriculumSettings(strategy="sec", learning_rate=0.5, temperature=0.5))
    rng = np.random.default_rng(0)

    def p() -> NDArray[np.float64]:
        weights = strategy.weights(columns, step=0, total_steps=1, rng=rng)
        return weights / weights.sum()

    # All Q are 0: each category a third, whatever its size.
    np.testing.assert_allclose(p(), [1 / 12] * 4 + [1 / 3] * 2)
    strategy.observe(trained([0, 1, 1], [0.2, 1.0, 0.6]))
    strategy.observe(trained([1], [0.4]))
    # Q0 = .5 * .2 = .1; Q1 = .5 * .8 = .4, then .5 * .4 + .5 * .4 = .4; Q2 = 0
    assert strategy.state_dict() == {"q": pytest.approx([0.1, 0.4])}
    softmax = np.exp(np.array([0.1, 0.4, 0.0]) / 0.5)
    softmax /= softmax.sum()
    np.testing.assert_allclose(p(), [softmax[0] / 4] * 4 + [softmax[1], softmax[2]])
    assert strategy.metrics() == {
        "curriculum/sec_q_0": pytest.approx(0.1),
        "curriculum/sec_q_1": pytest.approx(0.4),
    }


def test_sec_learns_from_what_is_trained() -> None:
    strategy = make_strategy(CurriculumSettings(strategy="sec", learning_rate=0.5))
    batch = trained([0, 1], [0.8, 0.4])
    strategy.observe(replace(batch, trained=np.array([True, False])))
    assert strategy.state_dict() == {"q": [0.4]}


def test_sec_never_shuts_a_category_out() -> None:
    columns = columns_of([0.5] * 2, category=[0, 1])
    strategy = make_strategy(CurriculumSettings(strategy="sec", learning_rate=1.0, temperature=0.01))
    strategy.observe(trained([0], [1000.0]))
    weights = strategy.weights(columns, step=0, total_steps=1, rng=np.random.default_rng(0))
    assert weights[1] / weights[0] == pytest.approx(1e-10)
    strategy.observe(trained([], []))
    assert strategy.state_dict() == {"q": [1000.0]}


def test_sec_refuses_what_it_cannot_use() -> None:
    strategy = make_strategy(CurriculumSettings(strategy="sec"))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="needs a category per prompt"):
        strategy.weights(columns_of([0.5]), step=0, total_steps=1, rng=rng)
    with pytest.raises(ValueError, match="category -1 is negative"):
        strategy.weights(columns_of([0.5], category=[-1]), step=0, total_steps=1, rng=rng)
    for categories, advantages, message in (
        (None, [1.0], "the batch carries none"),
        ([0, 1], [1.0], r"\(2,\) categories for \(1,\)"),
        ([0], [np.nan], "finite and not negative"),
        ([0], [-1.0], "finite and not negative"),
        ([-3], [1.0], "category -3 is negative"),
    ):
        with pytest.raises(ValueError, match=message):
            strategy.observe(trained(categories, advantages))
    for state in ({}, {"q": 3}, {"q": [np.nan]}, {"q": [], "more": 1}):
        with pytest.raises(ValueError, match="state of strategy 'sec'"):
            strategy.load_state_dict(state)
    assert strategy.state_dict() == {"q": []}


@pytest.mark.parametrize("strategy", ["uniform", "uncertainty", "cures", "thompson"])
def test_memoryless_strategies_keep_nothing(strategy: str) -> None:
    made = make_strategy(CurriculumSettings(strategy=strategy))
    made.observe(trained(None, [1.0]))
    assert made.state_dict() == {}
    assert made.metrics() == {}
    made.load_state_dict({})
    with pytest.raises(ValueError, match="keeps no state, but got q"):
        made.load_state_dict({"q": []})


@pytest.mark.parametrize(
    "strategy", ["uniform", "uncertainty", "cures", "thompson", "easy_first", "competence_based", "sec"]
)
def test_no_prompts_no_weights(strategy: str) -> None:
    made = make_strategy(CurriculumSettings(strategy=strategy))
    empty = columns_of([], category=[])
    assert made.weights(empty, step=0, total_steps=1, rng=np.random.default_rng(0)).shape == (0,)


def binned(**settings: Any) -> Any:
    return make_strategy(CurriculumSettings(**({"strategy": "easy_first", "num_bins": 3} | settings)))


def observed(strategy: Any, rewards: list[tuple[int, float]]) -> None:
    """The averages are of every outcome, trained or not."""
    rows = np.array([row for row, _ in rewards])
    values = np.array([reward for _, reward in rewards])
    untrained = np.zeros(len(rewards), dtype=np.bool_)
    strategy.observe(ScoredDraws(rows=rows, rewards=values, abs_advantages=np.zeros(len(rewards)), trained=untrained))


OUTCOMES = [[(0, 1.0), (3, 0.0), (0, 0.0)], [(2, 0.5), (3, 1.0), (4, 1.0)], [(0, 1.0), (5, 0.25)]]


@pytest.mark.parametrize("binning", ["quantile", "compatible"])
@pytest.mark.parametrize("name", ["easy_first", "competence_based"])
def test_moving_averages_give_the_bins_of_the_scheduler(name: str, binning: Any) -> None:
    """The same rewards, one by one into `CurriculumScheduler` and by the batch into the strategy of a run."""
    strategy = binned(strategy=name, binning=binning, ema_alpha=0.3, target=0.6)
    scheduler = CurriculumScheduler(name, n_bins=3, ema_alpha=0.3, competence_threshold=0.6, binning=binning)
    for batch in OUTCOMES:
        observed(strategy, batch)
        for row, reward in batch:
            scheduler.update(str(row), reward)
    columns = columns_of([0.5] * 8)
    weights = strategy.weights(columns, step=20, total_steps=100, rng=np.random.default_rng(0))
    bins = np.array([scheduler.get_item_bin(str(row)) for row in range(8)])
    sizes = np.bincount(bins, minlength=3)
    wanted = np.where(sizes > 0, scheduler.probabilities(20, 100), 0.0)
    np.testing.assert_allclose(np.bincount(bins, weights, minlength=3) / 8, wanted / wanted.sum())
    for number in range(3):
        assert np.unique(weights[bins == number]).size <= 1
    theirs = scheduler.metrics_dict()
    assert strategy.metrics() == pytest.approx(theirs)
    assert theirs["curriculum/items_tracked"] == 5.0 and theirs["curriculum/total_updates"] == 8.0


def test_bins_of_v_hat_count_the_prompts_with_evidence() -> None:
    columns = columns_of([0.9, 0.6, 0.5, 0.1])
    columns.last_version[2] = -1
    strategy = binned(num_bins=2)
    strategy.weights(columns, step=0, total_steps=10, rng=np.random.default_rng(0))
    assert strategy.metrics() == pytest.approx(
        {
            "curriculum/items_tracked": 3.0,
            "curriculum/total_updates": 4.0,
            "curriculum/mean_difficulty": (0.9 + 0.6 + 0.1) / 3,
            "curriculum/min_difficulty": 0.1,
            "curriculum/max_difficulty": 0.9,
            "curriculum/bin_0_count": 2.0,
            "curriculum/bin_1_count": 1.0,
        }
    )


def test_moving_averages_are_resumed_with_their_numbers() -> None:
    import json

    first = binned(ema_alpha=0.3)
    for batch in OUTCOMES:
        observed(first, batch)
    columns = columns_of([0.5] * 8)
    weights = first.weights(columns, step=1, total_steps=10, rng=np.random.default_rng(0))
    second = binned(ema_alpha=0.3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.metrics() == first.metrics()
    np.testing.assert_array_equal(
        second.weights(columns, step=1, total_steps=10, rng=np.random.default_rng(0)), weights
    )
    with pytest.raises(ValueError, match=r"another curriculum\.ema_alpha"):
        binned().load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match=r"another curriculum\.ema_alpha"):
        second.load_state_dict({})
    for bad in ({"rows": [1], "values": [], "counts": []}, {"rows": [1], "values": [float("nan")], "counts": [1]}):
        with pytest.raises(ValueError, match="no finite average and count"):
            second.load_state_dict({"averages": bad})
    assert second.metrics() == first.metrics()


def test_without_a_score_all_prompts_weigh_the_same() -> None:
    weights = binned(ema_alpha=0.5).weights(columns_of([0.9, 0.1]), step=0, total_steps=9, rng=np.random.default_rng(0))
    assert weights.tolist() == [1.0, 1.0]
