"""The store with estimator ``beta``, and what it has in common with the other one, test_two_level.py."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.baselines import beta_store

from bolt_ray.core.baseline import BaselineSettings, BaselineStore
from bolt_ray.core.baseline.evidence import drift_decay


def counts(store: BaselineStore, key: str = "a") -> tuple[float, float]:
    """(α, β) of a tracked prompt."""
    snapshot = store.snapshot()
    i = snapshot.keys.strings().index(key)
    return float(snapshot.columns["alpha"][i]), float(snapshot.columns["beta"][i])


def test_unseen_prompts_answer_by_the_prior() -> None:
    store = beta_store()
    assert store.get("a") == (0.5, 2.0)
    assert store.get("a", version=100) == (0.5, 2.0)
    assert beta_store(prior=(3, 1)).get("a") == (0.75, 4.0)
    assert len(store) == 0


def test_drift_decay_is_clipped_to_its_band() -> None:
    rho = drift_decay(np.array([0, 0.06, 0.5, 2]), d_half=0.5, rho_min=0.875, rho_max=0.96)
    assert rho.tolist() == pytest.approx([0.96, 0.92018765, 0.875, 0.875], abs=1e-8)


def test_kl_forgetting_step_by_step() -> None:
    store = beta_store(forgetting="kl", d_half=0.06)
    store.seed(["a"], [6], [2])
    assert 1.0 - store.get("a")[0] == 0.25
    store.update("a", 1.0, kl=0.0)
    assert counts(store) == pytest.approx((6.76, 1.92), abs=1e-8)
    assert store.get("a")[0] == pytest.approx(0.77880184, abs=1e-8)
    store.update("a", 0.0, kl=0.005)
    assert counts(store) == pytest.approx((6.38059035, 2.81223868), abs=1e-8)


def test_several_samples_decay_once() -> None:
    for keys, sums, number in ((["a"], [3], [4]), (["a"] * 4, [1, 0, 1, 1], [1] * 4)):
        store = beta_store(forgetting="constant", rho_max=0.9)
        store.seed(["a"], [4], [4])
        store.update_many(keys, sums, number)
        assert counts(store) == pytest.approx((6.6, 4.6), abs=1e-12)


@pytest.mark.parametrize("order", itertools.permutations([(1, 1.0), (3, 0.0), (2, 1.0)]))
def test_event_forgetting_in_any_order(order: tuple[tuple[int, float], ...]) -> None:
    one_by_one, at_once = beta_store(), beta_store()
    for store in (one_by_one, at_once):
        store.seed(["a"], [6], [2])
    for version, reward in order:
        one_by_one.update("a", reward, version=version)
    at_once.update_many(["a"] * 3, [r for _, r in order], [1] * 3, versions=[z for z, _ in order])
    assert counts(one_by_one) == pytest.approx((5.66015625, 2.33984375), abs=1e-12)
    assert counts(at_once) == pytest.approx((5.66015625, 2.33984375), abs=1e-12)


@pytest.mark.parametrize("prior", [(1.0, 1.0), (3.0, 1.0), "mean"])
def test_event_forgetting_of_a_new_prompt_in_any_order(prior: tuple[float, float] | str) -> None:
    outcomes = [(4, 1.0), (2, 0.5), (7, 0.0), (2, 1.0)]
    results = []
    for order in itertools.permutations(outcomes):
        store = beta_store(prior=prior)
        store.seed(["other"], [6], [2])
        for version, reward in order:
            store.update("a", reward, version=version)
        results.append(counts(store))
    start = {"mean": (1.5, 0.5)}.get(str(prior), prior)
    rho = 0.875
    alpha = rho**5 * (float(start[0]) + 1.5) + rho**3
    beta = rho**5 * (float(start[1]) + 0.5) + 1.0
    assert results[0] == pytest.approx((alpha, beta), abs=1e-12)
    assert np.allclose(results, results[0], rtol=0, atol=1e-12)


def test_reads_decay_the_count_and_leave_the_value() -> None:
    store = beta_store()
    store.seed(["a"], [6], [2])
    assert store.get("a", version=2) == (0.75, 8 * 0.875**2)
    assert store.get("a") == (0.75, 8.0)
    assert store.columns().n_eff.tolist() == [8.0]
    store.update("b", 1.0, version=3)
    assert store.columns().n_eff.tolist() == pytest.approx([8 * 0.875**3, 3.0])
    assert store.get("a", version=0) == (0.75, 8.0)


def test_one_sample_is_an_exponential_moving_average() -> None:
    store = beta_store(forgetting="constant")
    store.seed(["a"], [5], [3])
    v_hat, n_eff = store.get("a")
    store.update("a", 1.0)
    step = 1.0 / (0.96 * n_eff + 1.0)
    assert store.get("a")[0] == pytest.approx(v_hat + step * (1.0 - v_hat), abs=1e-12)


def test_count_reaches_its_equilibrium() -> None:
    store = beta_store(forgetting="constant", rho_max=0.9)
    for _ in range(300):
        store.update("a", 1.0)
    assert store.get("a")[1] == pytest.approx(10.0, abs=1e-9)


def test_counted_drift_is_what_came_between_two_visits() -> None:
    store = beta_store(forgetting="kl", d_half=0.5)
    store.update_many(["a"], [1], [1], drift=0.06)
    assert counts(store) == pytest.approx((0.96 + 1, 0.96), abs=1e-12)
    store.update_many(["b"], [0], [1], drift=0.04)
    store.update_many(["a"], [1], [1], drift=5.0)
    rho = 2 ** (-0.1 / 0.5)
    assert rho == pytest.approx(0.870551, abs=1e-6)  # clipped to .875
    assert counts(store) == pytest.approx((0.875 * 1.96 + 1, 0.875 * 0.96), abs=1e-12)
    store = beta_store(forgetting="kl", d_half=0.5)
    store.update_many(["a"], [1], [1], drift=0.06)
    store.update_many(["a"], [1], [1], drift=5.0)
    assert counts(store) == pytest.approx((0.92018765 * 1.96 + 1, 0.92018765 * 0.96), abs=1e-7)


def test_drift_before_the_first_evidence_decays_nothing() -> None:
    """Neither the prior of a prompt first seen now, nor a warm start given now, is older than now."""
    store = beta_store(forgetting="kl", d_half=0.5)
    store.update_many(["other"], [1], [1], drift=5.0)
    store.update_many(["a"], [1], [1])
    assert counts(store) == pytest.approx((0.96 + 1, 0.96), abs=1e-12)
    store.seed(["warm"], [6], [2])
    store.update_many(["warm"], [1], [1])
    assert counts(store, "warm") == pytest.approx((6 * 0.96 + 1, 2 * 0.96), abs=1e-12)


def test_batch_drift_is_the_distance_itself() -> None:
    store = beta_store(forgetting="kl", kl_source="batch", d_half=0.5)
    store.seed(["a"], [6], [2])
    store.update_many(["a"], [1], [1], drift=0.06)
    assert counts(store) == pytest.approx((6 * 0.92018765 + 1, 2 * 0.92018765), abs=1e-7)
    assert store.counters.drift_total == 0.0
    assert store.metrics()["baseline/avg_kl_ema"] == 0.06


def test_mean_prior_follows_the_store() -> None:
    store = beta_store(prior="mean")
    assert store.get("a") == (0.5, 2.0)
    store.seed(["a", "b"], [6, 1], [2, 3])
    assert store.get("c") == (0.5, 2.0)
    store.update_many(["b"], [4], [4], versions=0)
    assert store.get("c")[0] == pytest.approx((0.75 + 5 / 8) / 2, abs=1e-10)
    store.update("c", 1.0)
    assert counts(store, "c") == pytest.approx((2 * 0.6875 + 1, 2 * 0.3125), abs=1e-10)


def test_rewards_are_scaled_from_their_range() -> None:
    store = beta_store(reward_range=(-1.0, 1.0))
    store.update("a", -1.0)
    assert counts(store) == (1.0, 2.0)
    store.update("a", 7.0)
    assert counts(store) == (2.0, 2.0)


def test_an_update_id_is_applied_once() -> None:
    store = beta_store(forgetting="constant")
    assert store.update_many(["a"], [1], [1], drift=0.5, update_id="step-1")
    before = (counts(store), store.counters)
    assert not store.update_many(["a"], [1], [1], drift=0.5, update_id="step-1")
    assert (counts(store), store.counters) == before
    assert store.update_many([], [], [], drift=0.25, update_id="step-2")
    assert store.counters.drift_total == 0.75
    assert store.counters.num_updates == 2


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_refused_and_nothing_changes(reward: float) -> None:
    store = beta_store()
    store.update("a", 1.0)
    before = counts(store)
    with pytest.raises(ValueError, match="no evidence"):
        store.update("a", reward)
    with pytest.raises(ValueError, match=r"'new'.*no evidence"):
        store.update_many(["a", "new"], [1, reward], [1, 1], update_id="x")
    assert counts(store) == before
    assert (len(store), store.has_applied("x")) == (1, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reward_sums": [2], "counts": [1]}, "scale_rewards"),
        ({"reward_sums": [-1], "counts": [1]}, "scale_rewards"),
        ({"reward_sums": [1, 1], "counts": [1]}, "one entry per key"),
        ({"reward_sums": [1], "counts": [1.5]}, "whole"),
        ({"reward_sums": [1], "counts": [-1]}, "counts"),
        ({"reward_sums": [1], "counts": [1], "versions": [-1]}, "versions"),
        ({"reward_sums": [1], "counts": [1], "versions": [2**40]}, "versions"),
        ({"reward_sums": [1], "counts": [1], "drift": math.nan}, "drift"),
        ({"reward_sums": [1], "counts": [1], "drift": -0.1}, "drift"),
    ],
)
def test_impossible_outcomes_are_refused(arguments: dict[str, object], message: str) -> None:
    store = beta_store()
    with pytest.raises(ValueError, match=message):
        store.update_many(["a"], **arguments)  # type: ignore[arg-type]
    assert store.get("a") == (0.5, 2.0)


def test_entries_without_a_completion_are_no_evidence() -> None:
    store = beta_store()
    store.update_many(["a", "b"], [0, 1], [0, 2])
    assert store.get("a") == (0.5, 2.0)
    assert counts(store, "b") == (2.0, 2.0)
    assert len(store) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"rho_min": 0.0},
        {"rho_min": 0.97},
        {"rho_max": 1.01},
        {"d_half": 0.0},
        {"forgetting": "never"},
        {"kl_source": "guess"},
        {"prior": (0.0, 0.0)},
        {"prior": (-1.0, 3.0)},
        {"reward_range": (1.0, 1.0)},
        {"reward_range": (0.0, math.inf)},
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        BaselineSettings(**changes)  # type: ignore[arg-type]


def test_very_old_evidence_leaves_the_value_defined() -> None:
    store = beta_store()
    store.update("a", 1.0, version=0)
    assert store.get("a", version=1_000_000) == (pytest.approx(2 / 3), 0.0)
    store.update("a", 0.0, version=1_000_000)
    assert store.get("a") == (0.0, 1.0)
    store.update("a", 1.0, version=3)
    assert store.get("a") == (0.0, 1.0)


OUTCOMES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "00" * 16]),
        st.floats(0.0, 1.0),
        st.integers(0, 60),
        st.floats(0.0, 3.0),
    ),
    max_size=25,
)


@given(OUTCOMES, st.sampled_from(["event", "kl", "constant"]), st.sampled_from([(1.0, 1.0), "mean"]))
def test_values_stay_in_bounds(outcomes: list[tuple[str, float, int, float]], rule: str, prior: object) -> None:
    store = beta_store(forgetting=rule, prior=prior)
    for key, reward, version, drift in outcomes:
        store.update_many([key], [reward], [1], versions=[version], drift=drift)
        v_hat, n_eff = store.get(key)
        assert 0.0 <= v_hat <= 1.0
        assert 1.0 - 1e-9 <= n_eff <= (2.0 + len(outcomes) if rule == "event" else 1.0 / (1.0 - 0.96))
        assert 0.0 <= store.get(key, version=100)[1] <= n_eff
    assert store.metrics()["baseline/num_prompts"] == len({key for key, *_ in outcomes})


@given(OUTCOMES, st.randoms(use_true_random=False))
def test_event_forgetting_never_depends_on_the_order(
    outcomes: list[tuple[str, float, int, float]], random: object
) -> None:
    results = []
    for _ in range(2):
        store = beta_store()
        for key, reward, version, _drift in outcomes:
            store.update(key, reward, version=version)
        results.append([store.get(key, version=60) for key in ("a", "b", "00" * 16)])
        random.shuffle(outcomes)  # type: ignore[attr-defined]
    assert np.allclose(results[0], results[1], rtol=1e-9, atol=1e-9)


def test_columns_follow_the_rows_of_the_data_set() -> None:
    store = beta_store()
    assert store.register(["x", "y", "x"]) == 0
    assert store.register(["z"]) == 3
    store.seed(["z"], [6], [2])
    store.update_many(["x", "elsewhere"], [2, 1], [2, 1], versions=[5, 5])
    store.update_many(["x"], [2], [2], versions=[4])
    columns = store.columns(version=5)
    # x: (1 + 2, 1) at version 5, then .875 · 2 of version 4, which makes the prior one version older, too.
    x = (2 + 1.75 + 0.875) / (2 + 1.75 + 2 * 0.875)
    assert columns.v_hat.tolist() == pytest.approx([x, 0.5, x, 0.75], rel=1e-6)
    assert columns.visits.tolist() == [2, 0, 2, 0]
    assert store.read(["z", "x", "unknown"], version=5).visits.tolist() == [0, 2, 0]
    assert columns.solved_streak.tolist() == [2, 0, 2, 0]
    assert columns.last_version.tolist() == [5, -1, 5, -1]
    assert columns.n_eff[1] == 2.0
    assert columns.n_eff[3] == pytest.approx(8 * 0.875**5)
    store.update_many(["x"], [1], [2], versions=[6])
    assert store.columns().solved_streak.tolist() == [0, 0, 0, 0]
    assert store.rows_of(["x", "z", "elsewhere", "nowhere"]).tolist() == [2, 1, 0, 0]


def test_metrics_of_a_small_store() -> None:
    store = beta_store()
    store.register(["a", "b", "c", "d"])
    assert store.metrics()["baseline/avg_v_hat"] == 0.5
    assert store.metrics()["baseline/cold_fraction"] == 1.0
    store.seed(["a", "b"], [9, 1], [1, 9])
    store.update_many(["c"], [1], [2], versions=0, drift=0.5)
    store.update_many([], [], [], drift=1.0)
    metrics = store.metrics()
    assert metrics == pytest.approx(
        {
            "baseline/num_prompts": 3,
            "baseline/avg_v_hat": 0.5,
            "baseline/avg_N_eff": 8.0,
            "baseline/min_v_hat": 0.1,
            "baseline/max_v_hat": 0.9,
            "baseline/avg_kl_ema": 0.55,
            "baseline/cold_fraction": 0.25,
            "baseline/level": 0.5,
            "baseline/strength": 2.0,
            **{f"baseline/hist_{i}": 1 / 3 if i in (1, 5, 9) else 0.0 for i in range(10)},
        }
    )
    assert store.get_curriculum_stats() == pytest.approx(
        {
            "curriculum/n_tracked": 3,
            "curriculum/mean_v_hat": 0.5,
            "curriculum/std_v_hat": math.sqrt(0.32 / 3),
            "curriculum/mean_uncertainty": (0.3 + 0.3 + 0.5) / 3,
            "curriculum/pct_easy": 100 / 3,
            "curriculum/pct_hard": 100 / 3,
            "curriculum/pct_learning_edge": 100 / 3,
            "curriculum/coverage": 25.0,
        }
    )


def test_at_most_64_bytes_per_prompt_beside_the_key() -> None:
    keys = [f"{i:032x}" for i in range(100_000)]
    for settings in (
        BaselineSettings(),
        BaselineSettings(estimator="beta"),
        BaselineSettings(estimator="beta", forgetting="event", prior="mean"),
    ):
        store = BaselineStore(settings)
        for start in range(0, len(keys), 1024):
            store.register(keys[start : start + 1024])
        assert store.nbytes / len(keys) <= 64 + 16
