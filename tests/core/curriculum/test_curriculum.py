"""The curriculum: strategy and options together, its draws, its state and its metrics."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bolt_ray.core.baseline import BaselineStore
from bolt_ray.core.curriculum import STRATEGIES, Curriculum, CurriculumSettings, PromptColumns, ScoredDraws
from bolt_ray.core.curriculum.sampling import draw_without_replacement, window_generator


def columns_of(v_hat: list[float] | Any, **others: Any) -> PromptColumns:
    n = len(v_hat)
    values: dict[str, Any] = {
        "n_eff": np.full(n, 8.0),
        "visits": np.ones(n),
        "solved_streak": np.zeros(n),
        "last_version": np.zeros(n),
        "category": np.arange(n) % 3,
        **others,
    }
    return PromptColumns(
        v_hat=np.array(v_hat, dtype=np.float32),
        n_eff=np.array(values["n_eff"], dtype=np.float32),
        visits=np.array(values["visits"], dtype=np.int32),
        solved_streak=np.array(values["solved_streak"], dtype=np.int32),
        last_version=np.array(values["last_version"], dtype=np.int32),
        category=None if values["category"] is None else np.array(values["category"], dtype=np.int32),
    )


def curriculum(*, seed: int = 0, strategy: str = "uniform", **kwargs: Any) -> Curriculum:
    return Curriculum(CurriculumSettings(strategy=strategy, **kwargs), seed=seed)


def draw(made: Curriculum, weights: Any, k: int, *, window: int) -> Any:
    """As the prompt stream draws from a curriculum's weights."""
    return draw_without_replacement(weights, k, window_generator(made.seed, window, stream=1))


AT = {"step": 10, "total_steps": 100, "window": 1}


def test_columns_give_the_beta_posterior_and_check_their_lengths() -> None:
    columns = columns_of([0.75, 0.5], n_eff=[8.0, 2.0])
    np.testing.assert_allclose(columns.alpha, [6.0, 1.0])
    np.testing.assert_allclose(columns.beta, [2.0, 1.0])
    assert columns.num_prompts == 2
    with pytest.raises(ValueError, match=r"visits has shape \(3,\), v_hat \(2,\)"):
        columns_of([0.75, 0.5], visits=[1, 1, 1])
    with pytest.raises(ValueError, match="one-dimensional"):
        columns_of([[0.5]])


def test_options_scale_in_order_and_the_floor_comes_last() -> None:
    columns = columns_of([0.5, 0.5, 1.0], solved_streak=[0, 1, 9], last_version=[10, 10, -1])
    options = {"skip_solved": True, "staleness_bonus": 1.0, "exploration_floor": 0.1}
    weights = curriculum(strategy="uncertainty", epsilon=0.0, **options).weights(columns, **AT)
    # .5, .5 * .5 and 1e-10 * .01 * 2; the floor mixes in a tenth of their mean.
    base = np.array([0.5, 0.25, 2e-12])
    np.testing.assert_allclose(weights, 0.9 * base + 0.1 * base.mean(), rtol=1e-9)


def test_a_floor_of_one_is_uniform() -> None:
    weights = curriculum(strategy="cures", exploration_floor=1.0).weights(columns_of([0.1, 0.5, 1.0]), **AT)
    np.testing.assert_allclose(weights, weights[0])


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_weights_depend_on_seed_window_and_columns_alone(strategy: str) -> None:
    columns = columns_of(np.linspace(0, 1, 50))
    first, second = curriculum(strategy=strategy, seed=3), curriculum(strategy=strategy, seed=3)
    first.weights(columns, step=1, total_steps=100, window=0)  # history must not matter
    np.testing.assert_array_equal(first.weights(columns, **AT), second.weights(columns, **AT))
    other = curriculum(strategy=strategy, seed=4).weights(columns, **AT)
    assert (strategy == "thompson") == bool((other != second.weights(columns, **AT)).any())


def test_draws_are_reproducible_and_differ_by_window_and_seed() -> None:
    columns = columns_of(np.linspace(0, 1, 300))
    draw_of = {}
    for seed, window in ((0, 0), (0, 1), (1, 0)):
        one, two = curriculum(strategy="uncertainty", seed=seed), curriculum(strategy="uncertainty", seed=seed)
        weights = one.weights(columns, step=0, total_steps=9, window=window)
        drawn = draw(one, weights, 40, window=window)
        np.testing.assert_array_equal(drawn, draw(two, weights, 40, window=window))
        assert np.unique(drawn).size == 40
        draw_of[seed, window] = tuple(drawn.tolist())
    assert len(set(draw_of.values())) == 3


def test_window_generators_are_separate_streams_with_fixed_numbers() -> None:
    streams = [window_generator(1, 2, stream=s).random() for s in (0, 1)]
    others = [window_generator(2, 1, stream=0).random(), window_generator(1, 3, stream=0).random()]
    assert len({*streams, *others}) == 4
    assert window_generator(2**64 - 1, 0, stream=0).random() < 1.0
    # Pinned: a resumed run must draw what the interrupted one would have drawn.
    assert window_generator(0, 0, stream=0).integers(0, 1000, 4).tolist() == [34, 11, 611, 241]


def test_uncertain_prompts_are_drawn_more_often_than_under_uniform() -> None:
    rng = np.random.default_rng(0)
    v_hat = rng.beta(0.3, 0.3, 5000)  # most prompts solved or unsolved
    columns = columns_of(v_hat)
    mean_uncertainty = {}
    for strategy in ("uniform", "uncertainty", "thompson", "cures"):
        made = curriculum(strategy=strategy, temperature=0.1)
        drawn = draw(made, made.weights(columns, **AT), 500, window=1)
        mean_uncertainty[strategy] = float(np.sqrt(v_hat[drawn] * (1 - v_hat[drawn])).mean())
    for strategy in ("uncertainty", "thompson", "cures"):
        assert mean_uncertainty[strategy] > mean_uncertainty["uniform"] + 0.08


def test_the_mean_weight_is_that_of_the_last_refresh() -> None:
    made = curriculum(strategy="uncertainty")
    assert made.metrics() == {}
    made.weights(columns_of([0.9, 0.1, 0.5, 0.5]), **AT)
    # spreads .3, .3, .5, .5 and epsilon .05
    assert made.metrics()["curriculum/mean_weight"] == pytest.approx(0.45)
    made.weights(columns_of([1.0, 0.5]), **AT)
    assert made.metrics()["curriculum/mean_weight"] == pytest.approx(0.3)


def test_what_is_asked_by_v_hat_survives_a_resume() -> None:
    made = curriculum(strategy="uncertainty")
    made.weights(columns_of([0.9, 0.125, 0.5, 0.5]), **AT)
    spread = [0.3 + 0.05, math.sqrt(0.125 * 0.875) + 0.05, 0.55, 0.55]
    expected = dict.fromkeys(range(10), 0.0) | {1: spread[1], 5: 1.1, 9: spread[0]}
    asked = {f"curriculum/asked_{i}": share / sum(spread) for i, share in expected.items()}
    assert {name: value for name, value in made.metrics().items() if "asked" in name} == pytest.approx(asked)
    resumed = curriculum(strategy="uncertainty")
    resumed.load_state_dict(made.state_dict())
    assert resumed.metrics() == made.metrics()


def test_no_weights_have_no_mean() -> None:
    empty = curriculum()
    assert empty.weights(columns_of([]), **AT).shape == (0,)
    assert empty.metrics() == {}


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_the_numbers_of_the_baseline_stay_the_baselines(strategy: str) -> None:
    """A step's record merges both, so that a name of both would show what was true at the last refresh."""
    store = BaselineStore()
    store.register(["a", "b", "c"])
    made = curriculum(strategy=strategy)
    made.weights(replace(store.columns(), category=np.zeros(3, dtype=np.int32)), **AT)
    store.update_many(["a", "b"], [1.0, 0.0], [1, 1])
    assert made.metrics().keys().isdisjoint(store.get_curriculum_stats())
    record = {**store.metrics(), **store.get_curriculum_stats(), **made.metrics()}
    assert (record["curriculum/n_tracked"], record["curriculum/coverage"]) == (2.0, pytest.approx(200 / 3))


def test_state_survives_json_and_carries_the_bandit() -> None:
    columns = columns_of([0.5] * 6)
    left, right = curriculum(strategy="sec"), curriculum(strategy="sec")
    batch = ScoredDraws(
        rows=np.arange(3),
        rewards=np.zeros(3),
        abs_advantages=np.array([1.0, 0.5, 0.25]),
        trained=np.ones(3, dtype=np.bool_),
        categories=np.array([0, 0, 2]),
    )
    left.observe(batch)
    left.weights(columns, **AT)
    right.load_state_dict(json.loads(json.dumps(left.state_dict())))
    np.testing.assert_array_equal(right.weights(columns, **AT), left.weights(columns, **AT))
    assert right.metrics() == left.metrics()
    assert right.metrics()["curriculum/sec_q_0"] == 0.375


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"strategy": "sec"}, "lacks mean_weight, strategy_state"),
        ({"strategy": "sec", "strategy_state": {}, "mean_weight": None}, "is of strategy 'sec'"),
        ({"strategy": "uniform", "strategy_state": {"q": []}, "mean_weight": None}, "keeps no state"),
        ({"strategy": "uniform", "strategy_state": {}, "mean_weight": "1"}, "mean_weight '1'"),
    ],
)
def test_a_wrong_state_is_refused(state: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        curriculum().load_state_dict(state)


def test_unknown_strategies_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"choose one of uniform, .*; did you mean 'uncertainty'\?"):
        curriculum(strategy="uncertain")
    with pytest.raises(ValueError, match="strategy is 'zzz'"):
        curriculum(strategy="zzz")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epsilon", -0.1),
        ("gamma", math.nan),
        ("target", 1.5),
        ("temperature", 0.001),
        ("num_bins", 0),
        ("learning_rate", 2.0),
        ("exploration_floor", -0.1),
        ("staleness_bonus", math.inf),
    ],
)
def test_settings_outside_their_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be"):
        CurriculumSettings(**{name: value})


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_damaged_columns_are_refused(strategy: str) -> None:
    with pytest.raises(ValueError, match="prompt 1 has v_hat nan"):
        curriculum(strategy=strategy).weights(columns_of([0.5, math.nan]), **AT)
    with pytest.raises(ValueError, match=r"prompt 0 has .* n_eff inf"):
        curriculum(strategy=strategy).weights(columns_of([0.5, 0.5], n_eff=[math.inf, 1.0]), **AT)


@settings(max_examples=60, deadline=None)
@given(
    strategy=st.sampled_from(list(STRATEGIES)),
    v_hat=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40),
    n_eff=st.floats(0, 1e6, width=32),
    step=st.integers(0, 1000),
    temperature=st.floats(0.01, 100),
    epsilon=st.sampled_from([0.0, 0.05]),
    gamma=st.floats(0, 3),
    staleness_bonus=st.floats(0, 10),
    skip_solved=st.booleans(),
    exploration_floor=st.floats(0, 1),
)
def test_every_prompt_keeps_a_positive_weight(
    strategy: str, v_hat: list[float], n_eff: float, step: int, **options: Any
) -> None:
    n = len(v_hat)
    columns = columns_of(v_hat, n_eff=np.full(n, n_eff), solved_streak=np.arange(n) * 50, last_version=np.arange(n) - 1)
    made = curriculum(strategy=strategy, **options)
    weights = made.weights(columns, step=step, total_steps=500, window=0)
    assert weights.shape == (n,)
    assert weights.dtype == np.float64
    assert np.isfinite(weights).all()
    assert (weights > 0).all()
    assert sorted(draw(made, weights, n, window=0).tolist()) == list(range(n))
